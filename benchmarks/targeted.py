# SPDX-License-Identifier: Apache-2.0
"""ASMA on the third-party abdominal U-Net and a real scan: the liver without its rim, or elsewhere.

    python -m benchmarks.targeted --targets eroded shifted --steps 4

It writes the file of which the table of ``docs/targeted.md`` is made; a target that the file has is not attacked again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.doc_tables import RecordedTable
from benchmarks.real_scan import CLASSES, LIVER, WINDOW, find_data, load_network, load_scan
from monai_adversarial.attacks import ASMA
from monai_adversarial.attacks.targets import eroded_organ, shifted_organ
from monai_adversarial.metrics.dice import class_dice
from monai_adversarial.models import AttackedModel

TARGETS = {"eroded": "liver without a rim of 9 mm", "shifted": "liver 21 mm further back"}
SPACING, RIM_MM, SHIFT_MM = 3.0, 9.0, (0.0, 21.0, 0.0)


def wanted_segmentation(name: str, prediction: torch.Tensor) -> torch.Tensor:
    """The liver of a prediction without a rim of 9 mm, or moved by 21 mm to the back."""
    if name == "eroded":
        return eroded_organ(prediction, LIVER, RIM_MM, spacing=SPACING)
    return shifted_organ(prediction, LIVER, SHIFT_MM, spacing=SPACING)


def row(name: str, steps: int, data: str | None = None) -> dict[str, Any]:
    """Run the attack on the scan and return what the table says of it."""
    folder = find_data(data)
    scan, network = load_scan(folder), load_network(folder)
    model = AttackedModel(network, image_units="HU", round_to_integer=True)
    with torch.no_grad():
        clean = network(scan.image.as_tensor()).max(dim=1, keepdim=True).indices
    wanted = wanted_segmentation(name, clean)
    attack = ASMA(organs=(LIVER,), iou_goal=0.75, beta=5e-3, tau=2.5e-3, value_range=WINDOW[1] - WINDOW[0], steps=steps)
    began = time.perf_counter()
    result = attack(model, scan.image, wanted, truth=scan.label, spacing=SPACING)
    assert result.iou is not None and result.clean_iou is not None

    def liver(prediction: torch.Tensor) -> float:
        label = scan.label.as_tensor().to(prediction.device)
        return float(class_dice(prediction, label, [LIVER], len(CLASSES), "softmax")[0, 0])

    return {
        "target": name,
        "steps": steps,
        "clean_iou": float(result.clean_iou),
        "iou": float(result.iou),
        "clean_liver_dice_with_truth": liver(result.clean_prediction),
        "liver_dice_with_truth": liver(result.prediction),
        "largest_change_hu": float(result.budgets["noise_linf"].values),
        "rms_change_hu": float(result.budgets["rms_change"].values),
        "backwards": result.backwards,
        "seconds": time.perf_counter() - began,
    }


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row for each target."""
    lines = [
        "| wanted | IoU with it | liver's Dice with the truth | largest change, HU | rms, HU | gradients |",
        "|---|---|---|---:|---:|---:|",
    ]
    for one in found:
        cells = [
            TARGETS[one["target"]],
            f"{one['clean_iou']:.3f} -> **{one['iou']:.3f}**",
            f"{one['clean_liver_dice_with_truth']:.3f} -> {one['liver_dice_with_truth']:.3f}",
            f"{one['largest_change_hu']:.0f}",
            f"{one['rms_change_hu']:.1f}",
            str(one["backwards"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


PAGE = "targeted.md"
RECORDED = RecordedTable(PAGE, "targeted", "targeted.json", table)
with_table = RECORDED.with_table


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", help="folder with abdomen_ct and abdomen_unet (default: ../shared/data)")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="what the liver shall be")
    parser.add_argument("--steps", type=int, default=4, help="gradient evaluations")
    parser.add_argument("--output", type=Path, default=RECORDED.path, help="JSON file for what was found")
    options = parser.parse_args(arguments)
    output = options.output
    found = RECORDED.read(output)
    for name in options.targets:
        if (name, options.steps) not in {(one["target"], one["steps"]) for one in found}:
            found.append(row(name, options.steps, options.data))
            print(found[-1], flush=True)
            RECORDED.write(output, found)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
