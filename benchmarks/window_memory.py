# SPDX-License-Identifier: Apache-2.0
"""Peak extra memory of a whole-volume attack step at 4 and at 27 windows, each measured in a process of its own.

``python -m benchmarks.window_memory METHOD WINDOWS NETWORK SIZE`` prints the megabytes that one PGD call added to the
resident memory at its peak. The same with a network of a single 1 x 1 x 1 convolution measures the volume-sized tensors
(image, perturbation, logits, their gradient, objective), which no method can save.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

__all__ = ["extra_megabytes", "memory_rows"]

METHODS = ("inference", "ours", "autograd")
GRIDS = {1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 2, 2), 9: (3, 3, 1), 27: (3, 3, 3)}


def _status(name: str) -> float:
    """Megabytes of a field of /proc/self/status: VmRSS now, VmHWM at its peak."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"this system does not tell {name}: memory can be measured on Linux only.")
    return int(found.group(1)) / 1024


def _measure(method: str, windows: int, network_name: str, size: int) -> float:
    import torch
    from monai.inferers import SlidingWindowInferer
    from torch import nn

    from benchmarks.step_time import CLASSES, PlainInferer, unet, volume
    from monai_adversarial.attacks import PGD

    torch.set_num_threads(min(2, os.cpu_count() or 1))
    network = unet((8, 16, 32, 64)) if network_name == "unet" else nn.Conv3d(1, CLASSES, 1).eval()
    inferer = SlidingWindowInferer(size, sw_batch_size=1, overlap=0.25)
    attack = PGD(0.02, steps=2, precision="float32")
    # Whatever is loaded or compiled once is not the step's memory.
    attack(network, *volume((size,) * 3, "cpu"), inferer=inferer)
    image, label = volume(tuple(size + (count - 1) * (size * 3 // 4) for count in GRIDS[windows]), "cpu")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    if method == "inference":
        with torch.no_grad():
            inferer(image, network)
    else:
        attack(network, image, label, inferer=inferer if method == "ours" else PlainInferer(inferer))
    return _status("VmHWM") - before


def extra_megabytes(method: str, windows: int, network: str = "unet", size: int = 96) -> float:
    """Run one measurement in a new process."""
    command = [sys.executable, "-m", "benchmarks.window_memory", method, str(windows), network, str(size)]
    repository = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository)
    if done.returncode:
        raise RuntimeError(f"the measurement {' '.join(command[2:])} failed: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout.split()[-1])


def memory_rows(size: int) -> list[tuple[str, float, float, float | None]]:
    """(name, megabytes at 4 windows, at 27 windows, highest accepted ratio of the two)."""
    volumes = [extra_megabytes("ours", windows, "pointwise", size) for windows in (4, 27)]
    rows: list[tuple[str, float, float, float | None]] = [
        ("volume-sized tensors alone (1 x 1 x 1 network)", volumes[0], volumes[1], None)
    ]
    for method in METHODS:
        small, large = (extra_megabytes(method, windows, "unet", size) for windows in (4, 27))
        rows.append((f"{method}", small, large, None))
        if method != "inference":
            target = 1.3 if method == "ours" else None
            rows.append((f"{method}, less the volume-sized tensors", small - volumes[0], large - volumes[1], target))
    return rows


if __name__ == "__main__":
    print(_measure(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
