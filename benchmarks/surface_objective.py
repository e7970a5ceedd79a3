# SPDX-License-Identifier: Apache-2.0
"""Normalized surface Dice left by PGD along surfaces and along overlap: ``python -m benchmarks.surface_objective``.

The same crops of CT phantoms, the CT bundle's network, steps and budget for all, or the scan of another network; what
counts is MONAI's normalized surface Dice, averaged over organs. Nothing was chosen on these phantoms, but on those of
seed 3000.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from monai.data import MetaTensor
from monai.metrics import compute_surface_dice

from benchmarks.doc_tables import RecordedTable
from benchmarks.query_cases import phantom_crops
from benchmarks.steps_to_dice import PHANTOM_SPACING, Case, networks
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial.attacks import PGD, AnnealedDice, Dice, Objective, SurfaceDice
from monai_adversarial.attacks.objectives import CleanBatch, Progress, Target
from monai_adversarial.attacks.targets.shapes import distance_outside
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.scene import spacing_of

SEED, CROP, TOLERANCE = 6000, (48, 48, 32), 4.0
PHANTOM = "CT phantom, U-Net"
PAGE, TABLE = "targeted.md", "surface_objective"
FILE = "benchmarks/surface_objective.json"


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


def _cases(network: str, count: int) -> tuple[AttackedModel, list[Case]]:
    """Crops of phantoms, or the whole scans of another network."""
    if network != PHANTOM:
        return next(one for one in networks() if one.name == network).load()
    affine = torch.diag(torch.tensor([*PHANTOM_SPACING, 1.0], dtype=torch.float64))
    crops = [(MetaTensor(image, affine=affine), label) for image, label in phantom_crops(count, SEED, CROP)]
    return AttackedModel(bundle_network("cpu"), intensity=WINDOW), list(crops)


def rows(
    network: str,
    budgets: Sequence[float],
    steps: int,
    objectives: Sequence[str],
    count: int,
    known: Sequence[dict[str, Any]] = (),
) -> Iterator[dict[str, Any]]:
    """What each objective leaves of each case; what is known is not measured again.

    Args:
        network: as ``benchmarks.steps_to_dice`` calls it.
        budgets: in HU.
        steps: of PGD.
        objectives: names of ``OBJECTIVES``.
        count: cases, of phantoms.
        known: rows that are there already.
    """
    model, cases = _cases(network, count)
    there = {(row["network"], row["case"], row["budget_hu"], row["objective"], row["passes"][1]) for row in known}
    for number, (image, label) in enumerate(cases):
        spacing = spacing_of(image)
        assert spacing is not None
        for budget in budgets:
            for name in objectives:
                if (network, number, budget, name, steps) in there:
                    continue
                result = PGD(budget, "HU", steps=steps, objective=OBJECTIVES[name]())(model, image, label)
                clean, left = (
                    surface_dice(part, result.label, spacing[0].tolist(), TOLERANCE)
                    for part in (result.clean_prediction, result.prediction)
                )
                row = {
                    "network": network,
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
    """Markdown: one row for each network and objective, two columns for each budget."""
    budgets = sorted({row["budget_hu"] for row in found})
    heads = [f"{what}, {budget:g} HU" for budget in budgets for what in ("NSD", "Dice")]
    lines = [f"| network | PGD along | {' | '.join(heads)} |", f"|---|---|{'---:|' * len(heads)}"]
    for network, name in dict.fromkeys((row["network"], row["objective"]) for row in found):
        cells = []
        for budget in budgets:
            own = [
                row for row in found if (row["network"], row["objective"], row["budget_hu"]) == (network, name, budget)
            ]
            cells += [f"{mean(row[what] for row in own):.3f}" if own else "" for what in ("nsd", "dice")]
        lines.append(f"| {network} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


RECORDED = RecordedTable(PAGE, TABLE, FILE, table)
with_table = RECORDED.with_table


def main() -> None:
    """Measure what is missing, write it as it comes, and renew the page where its own file was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default=PHANTOM, help="part of a network's name; default the one of phantoms")
    parser.add_argument("--budgets", nargs="+", type=float, default=[2.0, 4.0, 8.0], help="HU")
    parser.add_argument("--steps", type=int, default=10, help="of PGD")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--cases", type=int, default=4, help="crops of phantoms")
    parser.add_argument("--output", type=Path, default=RECORDED.path)
    arguments = parser.parse_args()
    names = [PHANTOM, *(one.name for one in networks())]
    network = next((name for name in names if arguments.network in name), None)
    if network is None:
        parser.error(f"--network must be part of one of {', '.join(names)}, got {arguments.network!r}.")
    output = arguments.output
    found = RECORDED.read(output)
    settings = {"seed": SEED, "crop": list(CROP), "tolerance_mm": TOLERANCE}
    asked = (network, arguments.budgets, arguments.steps, arguments.objectives, arguments.cases)
    for row in rows(*asked, tuple(found)):
        found.append(row)
        RECORDED.write(output, found, torch=torch.__version__, **settings)


if __name__ == "__main__":
    main()
