# SPDX-License-Identifier: Apache-2.0
"""Normalized surface Dice left by PGD along surfaces and along overlap: ``python -m benchmarks.surface_objective``.

The same crops of CT phantoms, the CT bundle's network, steps and budget for all; what counts is MONAI's normalized
surface Dice, averaged over organs. Nothing was chosen on these phantoms, but on those of
seed 3000.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from monai.metrics import compute_surface_dice

from benchmarks.doc_tables import DOCS, renew_table, replace_table
from benchmarks.query_cases import phantom_crops
from benchmarks.steps_to_dice import PHANTOM_SPACING
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial.attacks import PGD, AnnealedDice, Dice, Objective, SurfaceDice
from monai_adversarial.attacks.objectives import CleanBatch, Progress, Target
from monai_adversarial.attacks.targets.shapes import distance_outside
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.files import replace_when_complete

SEED, CROP, STEPS, TOLERANCE = 6000, (48, 48, 32), 10, 4.0
PAGE, TABLE = "targeted.md", "surface_objective"
FILE = DOCS / "benchmarks" / "surface_objective.json"


class BoundaryLoss(Objective):
    """Sum of each organ's probability times the signed distance to its surface in mm, divided by that sum inside.

    Source: Kervadec et al., "Boundary loss for highly unbalanced segmentation", MIDL 2019, equation 5, as an attack's
    objective and with the division ours.
    """

    allows_moving_anatomy = False

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """Signed distances of each organ of a class map, 0 for the background and for organs that are not there."""
        assert target.index is not None
        distances = torch.zeros(target.voxel_shape[0], target.classes, *target.voxel_shape[1:])
        for sample, steps in enumerate(clean.mm("BoundaryLoss").tolist()):
            for organ in range(1, target.classes):
                mask = target.index[sample] == organ
                if mask.any() and not mask.all():
                    signed = distance_outside(mask, steps) - distance_outside(~mask, steps)
                    distances[sample, organ] = (signed / -signed.clamp_max(0).sum()).float()
        return target.with_numbers(distances=distances)

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        """The sum over organs and voxels."""
        return (logits.softmax(dim=1) * target.numbers["distances"]).flatten(1).sum(dim=1)


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "surface Dice": lambda: SurfaceDice(TOLERANCE),
    "soft Dice": Dice,
    "annealed Dice, the default": AnnealedDice,
    "boundary loss": BoundaryLoss,
}


def surface_dice(prediction: torch.Tensor, label: torch.Tensor, spacing: Sequence[float], tolerance: float) -> float:
    """Mean over the organs of two class maps (1, 1, spatial...); 0 for one that a single of them has."""
    found = []
    for organ in range(1, 1 + int(max(prediction.max(), label.max()))):
        own, true = prediction == organ, label == organ
        if own.any() and true.any():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of MONAI about its own deprecated arguments
                value = compute_surface_dice(
                    own.float(), true.float(), [tolerance], include_background=True, spacing=list(spacing)
                )
            found.append(float(value))
        elif own.any() or true.any():
            found.append(0.0)
    return mean(found)


def rows(budgets: Sequence[float], cases: int, known: Sequence[dict[str, Any]] = ()) -> Iterator[dict[str, Any]]:
    """What each objective leaves of each case; what is known is not measured again."""
    model = AttackedModel(bundle_network("cpu"), intensity=WINDOW)
    there = {(row["case"], row["budget_hu"], row["objective"]) for row in known}
    for number, (image, label) in enumerate(phantom_crops(cases, SEED, CROP)):
        for budget in budgets:
            for name, make in OBJECTIVES.items():
                if (number, budget, name) in there:
                    continue
                result = PGD(budget, "HU", steps=STEPS, objective=make())(model, image, label, spacing=PHANTOM_SPACING)
                clean, left = (
                    surface_dice(part, result.label, PHANTOM_SPACING, TOLERANCE)
                    for part in (result.clean_prediction, result.prediction)
                )
                row = {
                    "case": number,
                    "budget_hu": budget,
                    "objective": name,
                    "clean_nsd": round(clean, 4),
                    "nsd": round(left, 4),
                    "dice": round(float(result.adversarial_dice), 4),
                    "passes": [result.forwards, result.backwards],
                }
                print(row, flush=True)
                yield row


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row for each objective, two columns for each budget."""
    budgets = list(dict.fromkeys(row["budget_hu"] for row in found))
    heads = [f"{what}, {budget:g} HU" for budget in budgets for what in ("NSD", "Dice")]
    lines = [f"| PGD along | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for name in dict.fromkeys(row["objective"] for row in found):
        cells = []
        for budget in budgets:
            own = [row for row in found if row["objective"] == name and row["budget_hu"] == budget]
            cells += [f"{mean(row[what] for row in own):.3f}" for what in ("nsd", "dice")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(text: str, folder: Path) -> str:
    """The page with its table made anew from the JSON file in ``folder``."""
    found = json.loads((folder / "benchmarks" / FILE.name).read_text(encoding="utf-8"))["rows"]
    return replace_table(text, TABLE, table(found))


def main() -> None:
    """Measure, print and write the file, and renew the page where its own file was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", nargs="+", type=float, default=[2.0, 4.0, 8.0])
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--output", type=Path, default=FILE)
    arguments = parser.parse_args()
    file = arguments.output
    found = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.is_file() else []
    settings = {"seed": SEED, "crop": list(CROP), "steps": STEPS, "tolerance_mm": TOLERANCE}
    for row in rows(arguments.budgets, arguments.cases, tuple(found)):
        found.append(row)
        with replace_when_complete(file) as temporary:
            record = {"torch": torch.__version__, **settings, "rows": found}
            temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if file.resolve() == FILE.resolve():
        renew_table(DOCS / PAGE, TABLE, table(found))


if __name__ == "__main__":
    main()
