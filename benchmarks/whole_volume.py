# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.whole_volume``: one PGD call on a large volume with many classes; seconds and peak memory.

The network is a MONAI 3D U-Net with random weights: what is shown is that the call fits, not how strong it is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet

from benchmarks.fresh_process import status_megabytes
from benchmarks.machine import machine_line
from benchmarks.settings import Settings
from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel

__all__ = ["attack_volume"]


def attack_volume(shape: tuple[int, ...], classes: int, window: int, steps: int) -> dict[str, Any]:
    """Attack one random volume.

    Args:
        shape: voxels along each axis.
        classes: the network's output channels.
        window: voxels along each axis of a window; they overlap by a quarter.
        steps: of PGD.

    Returns:
        what was run, wall and CPU seconds, and the process's peak resident memory in GiB (all of it, not only what the
        call added).
    """
    torch.manual_seed(0)
    network = UNet(3, 1, classes, (8, 16, 32, 64), (2, 2, 2)).eval()
    model = AttackedModel(network, SlidingWindowInferer(window, 1, 0.25, mode="gaussian"))
    image = torch.rand(1, 1, *shape)
    label = torch.randint(0, classes, (1, 1, *shape), dtype=torch.uint8)
    wall, cpu = time.perf_counter(), time.process_time()
    result = PGD(0.02, steps=steps, progress=True)(model, image, label)
    return {
        "machine": machine_line(Settings(threads=torch.get_num_threads())),
        "shape": list(shape),
        "classes": classes,
        "window": window,
        "steps": steps,
        "forwards": result.forwards,
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_gib": round(status_megabytes("VmHWM") / 1024, 2),
        "volume_gib": round(image.numel() * 4 / 2**30, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole_volume", description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 256))
    parser.add_argument("--classes", type=int, default=105)
    parser.add_argument("--window", type=int, default=96)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    given = parser.parse_args()
    found = attack_volume(tuple(given.shape), given.classes, given.window, given.steps)
    print(json.dumps(found, indent=2))
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
