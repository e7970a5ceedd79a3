# SPDX-License-Identifier: Apache-2.0
"""Auto-PGD beside its authors' code: ``python -m benchmarks.peer_auto_pgd`` writes the table of docs/equal_cost.md.

Crops of CT phantoms and the CT bundle's network in float32, mean cross-entropy over voxels, the clean image as the
start, as many moves. Voxels that the window clips stay as they are for both. What counts is the loss of the point that
is returned, measured here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.doc_tables import RecordedTable
from benchmarks.peers.behind_window import BehindWindow
from benchmarks.peers.dense_loss import DenseLossClassifier
from benchmarks.peers.problem import CountedNetwork, Problem
from benchmarks.query_cases import phantom_crops
from benchmarks.steps_to_dice import Case
from benchmarks.strength import WINDOW, bundle_network
from monai_adversarial.attacks import AdditiveNoise, Attack, AutoPGD
from monai_adversarial.models import AttackedModel

#: radius in HU; phantoms from this seed; voxels of a crop
EPSILON, SEED, CROP = 8.0, 3000, (48, 48, 32)
PAGE, TABLE = "equal_cost.md", "peer_auto_pgd"
#: name in the record -> search
OURS = {
    "paper": AutoPGD(schedule="constant"),
    "code": AutoPGD(schedule="constant", rounding="down"),
    "default": AutoPGD(),
}
HEADS = ("clean", "autoattack", "ours, the paper's", "ours, rounded as theirs", "ours, the default")


def ours(model: AttackedModel, case: Case, steps: int, search: AutoPGD) -> torch.Tensor:
    """The point of the highest loss that our Auto-PGD finds from the clean image."""
    noise = AdditiveNoise(EPSILON, units="HU")
    attack = Attack(noise, "cross_entropy", search=search, steps=steps, random_start=False)
    return attack(model, *case).adversarial  # type: ignore[no-any-return]


def rows(cases: int, steps: Sequence[int], known: Sequence[dict[str, Any]] = ()) -> Iterator[dict[str, Any]]:
    """Losses of a case after a number of moves; what is known is not measured again."""
    from benchmarks.peers.auto_attack import best_point

    there = {(row["case"], row["steps"]) for row in known}
    network = bundle_network("cpu")
    model = AttackedModel(network, intensity=WINDOW, precision="float32")
    assert model.intensity is not None
    for case, (image, label) in enumerate(phantom_crops(cases, SEED, CROP)):
        behind = CountedNetwork(BehindWindow(network, image))
        problem = Problem(behind, image, label.long(), model.intensity.scale * EPSILON)
        loss = DenseLossClassifier(problem).loss
        for number in steps:
            if (case, number) in there:
                continue
            points = {"clean": image, "autoattack": best_point(problem, number, image)}
            points |= {name: ours(model, (image, label), number, search) for name, search in OURS.items()}
            with torch.no_grad():
                losses = {name: round(float(loss(point)), 4) for name, point in points.items()}
            yield {"case": case, "steps": number, **losses}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: the mean loss over the cases, one row for each number of moves."""
    names = ["clean", "autoattack", *OURS]
    lines = [f"| moves | cases | {' | '.join(HEADS)} |", f"|---:|---:|{'---:|' * len(names)}"]
    for steps in sorted({row["steps"] for row in found}):
        own = [row for row in found if row["steps"] == steps]
        cells = [f"{mean(row[name] for row in own):.3f}" for name in names]
        lines.append(f"| {steps} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


RECORDED = RecordedTable(PAGE, TABLE, "benchmarks/peer_auto_pgd.json", table)
with_table = RECORDED.with_table


def main() -> None:
    """Measure what is missing, write it as it comes, and renew the page where its own file was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3, help="crops of phantoms")
    parser.add_argument("--steps", nargs="+", type=int, default=[5, 10, 20, 40, 100], help="moves")
    parser.add_argument("--output", type=Path, default=RECORDED.path)
    arguments = parser.parse_args()
    output = arguments.output
    found = RECORDED.read(output)
    for row in rows(arguments.cases, arguments.steps, tuple(found)):
        found.append(row)
        print(row, flush=True)
        RECORDED.write(output, found, torch=torch.__version__, seed=SEED, crop=list(CROP), budget_hu=EPSILON)


if __name__ == "__main__":
    main()
