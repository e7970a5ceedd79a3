# SPDX-License-Identifier: Apache-2.0
"""What each part of MAFL does to a targeted attack: ``python -m benchmarks.targeted_parts``.

The CT bundle's network and crops of CT phantoms, whose liver shall be predicted elsewhere; the same radius and
gradients for all. Weights and momentum were chosen on the phantom of seed 2000 and the example case, not on these.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.doc_tables import RecordedTable
from benchmarks.query_cases import phantom_crops
from benchmarks.steps_to_dice import PHANTOM_SPACING
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial.attacks import ASMA, MAFL, PGD, AdditiveNoise, Attack, SteepestAscent
from monai_adversarial.attacks.objectives.low_frequency_penalized import low_frequencies
from monai_adversarial.attacks.search import Search
from monai_adversarial.attacks.targets import shifted_organ
from monai_adversarial.data.phantom_anatomy import CLASS_NAMES
from monai_adversarial.models import AttackedModel

SEED, CROP, SHIFT_MM = 6000, (48, 48, 32), (0.0, 9.6, 0.0)
LIVER = CLASS_NAMES.index("liver")
#: the deepest block of the bundle's U-Net
DEEPEST = "model.1.submodule.1.submodule.1.submodule.1.submodule"
NOTHING = {"feature_weight": 0.0, "low_frequency_weight": 0.0, "momentum": 0.0}
PAGE, TABLE = "targeted.md", "targeted_parts"
FILE = "benchmarks/targeted_parts.json"


def _mafl(epsilon: float, steps: int, **parts: float) -> Attack:
    return MAFL(epsilon, [DEEPEST], "HU", steps=steps, **parts)


def _noise(epsilon: float, steps: int, objective: str, search: Search) -> Attack:
    noise = AdditiveNoise(epsilon, units="HU")
    return Attack(noise, objective, search, steps=steps, targeted=True, random_start=False)


ATTACKS: dict[str, Callable[[float, int], Attack]] = {
    "PGD, Dice and cross-entropy": lambda e, n: _noise(e, n, "dice_ce", SteepestAscent(2.0, schedule="linear")),
    "PGD, annealed Dice": lambda e, n: _noise(e, n, "annealed_dice", SteepestAscent(2.0, schedule="linear")),
    "PGD, default": lambda e, n: PGD(e, "HU", steps=n, targeted=True, random_start=False),
    "ASMA": lambda e, n: ASMA(e, "HU", organs=(LIVER,), beta=5e-3, tau=2.5e-3, steps=n),
    "half steps": lambda e, n: _mafl(e, n, **NOTHING),
    "half steps, momentum": lambda e, n: _mafl(e, n, **{**NOTHING, "momentum": 0.5}),
    "half steps, momentum, features": lambda e, n: _mafl(e, n, low_frequency_weight=0.0),
    "half steps, momentum, features times 10": lambda e, n: _mafl(e, n, low_frequency_weight=0.0, feature_weight=1.0),
    "half steps, momentum, low frequencies": lambda e, n: _mafl(e, n, feature_weight=0.0),
    "MAFL": lambda e, n: _mafl(e, n),
}


def _iou(prediction: torch.Tensor, wanted: torch.Tensor) -> float:
    """Of the livers of two class maps."""
    a, b = prediction == LIVER, wanted == LIVER
    return float((a & b).sum() / (a | b).sum())


def rows(
    budgets: Sequence[float], steps: int, count: int, known: Sequence[dict[str, Any]] = ()
) -> Iterator[dict[str, Any]]:
    """What each attack reaches of each crop; what is known is not measured again.

    Args:
        budgets: in HU.
        steps: gradients.
        count: crops.
        known: rows that are there already.
    """
    network = bundle_network("cpu")
    model = AttackedModel(network, intensity=WINDOW)
    there = {(row["case"], row["budget_hu"], row["attack"], row["passes"][1]) for row in known}
    for number, (image, label) in enumerate(phantom_crops(count, SEED, CROP)):
        with torch.no_grad():
            clean = network(image).argmax(dim=1, keepdim=True)
        wanted = shifted_organ(clean, LIVER, SHIFT_MM, spacing=PHANTOM_SPACING)
        for budget in budgets:
            for name, make in ATTACKS.items():
                if (number, budget, name, steps) in there:
                    continue
                result = make(budget, steps)(model, image, wanted, truth=label)
                change = (result.adversarial - image) * (WINDOW["a_max"] - WINDOW["a_min"])
                row = {
                    "case": number,
                    "budget_hu": budget,
                    "attack": name,
                    "clean_iou": round(_iou(clean, wanted), 4),
                    "iou": round(_iou(result.prediction, wanted), 4),
                    "rms_change_hu": round(float(change.square().mean().sqrt()), 3),
                    "low_frequency_rms_hu": round(float(low_frequencies(change).square().mean().sqrt()), 3),
                    "passes": [result.forwards, result.backwards],
                }
                print(row, flush=True)
                yield row


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: one row for each attack, three columns for each budget."""
    budgets = sorted({row["budget_hu"] for row in found})
    parts = {"IoU": ("iou", 3), "rms": ("rms_change_hu", 2), "of it low": ("low_frequency_rms_hu", 2)}
    heads = [f"{head}, {budget:g} HU" for budget in budgets for head in parts]
    lines = [f"| attack | IoU before | {' | '.join(heads)} |", f"|---|---:|{'---:|' * len(heads)}"]
    for name in dict.fromkeys(row["attack"] for row in found):
        cells = [f"{mean(row['clean_iou'] for row in found if row['attack'] == name):.3f}"]
        for budget in budgets:
            own = [row for row in found if row["attack"] == name and row["budget_hu"] == budget]
            cells += [f"{mean(row[key] for row in own):.{digits}f}" if own else "" for key, digits in parts.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


RECORDED = RecordedTable(PAGE, TABLE, FILE, table)
with_table = RECORDED.with_table


def main() -> None:
    """Measure what is missing, write it as it comes, and renew the page where its own file was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", nargs="+", type=float, default=[4.0, 8.0], help="HU")
    parser.add_argument("--steps", type=int, default=20, help="gradients")
    parser.add_argument("--cases", type=int, default=4, help="crops of phantoms")
    parser.add_argument("--output", type=Path, default=RECORDED.path)
    arguments = parser.parse_args()
    output = arguments.output
    found = RECORDED.read(output)
    settings = {"seed": SEED, "crop": list(CROP), "shift_mm": list(SHIFT_MM)}
    for row in rows(arguments.budgets, arguments.steps, arguments.cases, tuple(found)):
        found.append(row)
        RECORDED.write(output, found, torch=torch.__version__, **settings)


if __name__ == "__main__":
    main()
