# SPDX-License-Identifier: Apache-2.0
"""Strength at equal numbers of passes, against loops of ten lines: the table of docs/equal_cost.md.

    python -m benchmarks.equal_cost docs/equal_cost.csv

Libraries are compared in docs/benchmarks.md, on phantoms, because they take no whole volumes. Rows are written as they
come, and those that the file has already are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.csv_rows import read_rows, write_rows
from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.steps_to_dice import Case, Network, networks
from monai_adversarial.attacks import (
    APGD,
    PGD,
    AdditiveNoise,
    Attack,
    BiasFieldAttack,
    ElasticAttack,
    Perturbation,
    ShrinkingRadius,
)
from monai_adversarial.attacks.boundary import Given
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.plain import as_plain

__all__ = ["CONTESTANTS", "Row", "loop", "rows", "summary"]

PAGE, TABLE = "equal_cost.md", "equal_cost.csv"
PASSES = (5, 10, 20, 40)
#: HU of the window of a bias field where the network has none
DISPLAY = (-160.0, 240.0)
#: Dice by which an attack may be behind the best loop before the table says so
ROOM = 2e-3


@dataclass(frozen=True)
class Contestant:
    """One way to attack.

    Args:
        name: in the table.
        group: attacks of one group have one budget and are compared.
        ours: an attack of this package with its defaults; else a loop or a published setting.
        run: from the model, a case, HU and passes to (clean Dice, Dice).
    """

    name: str
    group: str
    ours: bool
    run: Callable[[AttackedModel, Case, float, int], tuple[float, float]]


@dataclass(frozen=True)
class Row:
    """One attack with one number of passes.

    Args:
        network: name of the network.
        budget_hu: radius of voxel budgets.
        group, attack: see ``Contestant``.
        passes: forward + backward passes of one case.
        clean_dice, dice: means over the cases.
        cpu_seconds: process time, all cases together.
    """

    network: str
    budget_hu: float
    group: str
    attack: str
    passes: int
    clean_dice: float
    dice: float
    cpu_seconds: float


def loop(
    perturbation: Perturbation,
    model: AttackedModel,
    image: torch.Tensor,
    label: torch.Tensor | None,
    passes: int,
    falling: bool,
    loss: str,
) -> tuple[float, float]:
    """What anyone would write: sign steps of ``perturbation``'s parameters in a plain loop, the last point counts.

    Args:
        perturbation: how the image may change.
        model: what is attacked.
        image: clean batch.
        label: class map; None for the clean prediction.
        passes: steps.
        falling: steps fall linearly from twice the budget; else they are constant, a quarter of it.
        loss: ``"dice"``, ``"dice_ce"`` or ``"cross_entropy"`` of MONAI's and PyTorch's own.
    """
    from monai.losses import DiceCELoss, DiceLoss

    functions: dict[str, Callable[..., torch.Tensor]] = {
        "dice": DiceLoss(include_background=False, to_onehot_y=True, softmax=True),
        "dice_ce": DiceCELoss(include_background=False, to_onehot_y=True, softmax=True),
        "cross_entropy": lambda logits, y: torch.nn.functional.cross_entropy(logits, y[:, 0].long()),
    }
    # Binding, moving labels and scoring are the package's, so that nothing but the search differs.
    attack = Attack(perturbation)
    given = Given.read(model, image, label, by_queries=False)
    with attack.scope(model, given.image) as (predictor, clean):
        bound = perturbation.bind(attack._scene(predictor, clean, given, None, None))
        answer = predictor.read_clean(clean)
        truth = answer.prediction if label is None else as_plain(label)
        reference = Reference.read(model, truth, answer.classes)
        point = bound.random(bound.scene.generators(0))
        for step in range(passes):
            parameters = tuple(p.detach().requires_grad_() for p in point)
            logits = predictor(bound.apply(clean, parameters))
            value = functions[loss](logits, bound.move_label(truth, parameters))
            gradients = torch.autograd.grad(value, parameters)
            size = 2 * (1 - step / passes) if falling else 0.25
            moved = zip(parameters, gradients, bound.radii, strict=True)
            with torch.no_grad():
                point = bound.project(tuple((p + size * r * g.sign()).detach() for p, g, r in moved))
        with torch.no_grad():
            prediction = predictor.answer(bound.finished(clean, point)).prediction
            dice = reference.moved(bound, point).score(prediction)
    return float(reference.score(answer.prediction).mean()), float(dice.mean())


def _attack(make: Callable[[float, int], Attack]) -> Callable[[AttackedModel, Case, float, int], tuple[float, float]]:
    return lambda model, case, budget, passes: _scored(make(budget, passes), model, case)


def _scored(attack: Attack, model: AttackedModel, case: Case) -> tuple[float, float]:
    result = attack(model, *case)
    return float(result.clean_dice.mean()), float(result.adversarial_dice.mean())


def _field(model: AttackedModel, passes: int = 1) -> BiasFieldAttack:
    """In the window of the network, or the one in which the scan of a network without one is shown."""
    return BiasFieldAttack(window=DISPLAY if model.intensity is None else None, steps=passes)


def _loop(
    make: Callable[[AttackedModel, float], Perturbation], falling: bool, loss: str
) -> Callable[[AttackedModel, Case, float, int], tuple[float, float]]:
    return lambda model, case, budget, passes: loop(make(model, budget), model, *case, passes, falling, loss)


def _noise(model: AttackedModel, budget: float) -> Perturbation:
    return AdditiveNoise(budget, units="HU")


def _loops(group: str, make: Callable[[AttackedModel, float], Perturbation]) -> list[Contestant]:
    return [
        Contestant("loop, constant steps, cross-entropy", group, False, _loop(make, False, "cross_entropy")),
        Contestant("loop, constant steps, Dice + CE", group, False, _loop(make, False, "dice_ce")),
        Contestant("loop, falling steps, Dice", group, False, _loop(make, True, "dice")),
    ]


_PUBLISHED: dict[str, Any] = {"schedule": "constant", "objective": "balanced_masked_cross_entropy"}
GROUPS = VOXELS, FIELD, WARP = "voxels", "bias field", "elastic"
CONTESTANTS = (
    Contestant("PGD", VOXELS, True, _attack(lambda e, n: PGD(e, "HU", steps=n))),
    Contestant("Auto-PGD", VOXELS, True, _attack(lambda e, n: APGD(e, "HU", steps=n))),
    *_loops(VOXELS, _noise),
    Contestant(
        "2, 1.5, 1 times the budget, Auto-PGD, balanced masked CE",
        VOXELS,
        False,
        _attack(lambda e, n: ShrinkingRadius(APGD(e, "HU", steps=n, **_PUBLISHED))),
    ),
    Contestant("bias field", FIELD, True, lambda model, case, e, n: _scored(_field(model, n), model, case)),
    *_loops(FIELD, lambda model, e: _field(model).perturbation),
    Contestant("elastic", WARP, True, _attack(lambda e, n: ElasticAttack(steps=n))),
    *_loops(WARP, lambda model, e: ElasticAttack().perturbation),
)


def rows(
    wanted: Iterable[Network],
    known: Iterable[Row] = (),
    passes: Sequence[int] = PASSES,
    contestants: Sequence[Contestant] = CONTESTANTS,
) -> Iterator[Row]:
    """Measure what is missing; the attacks with one number of passes follow each other."""
    there = {(row.network, row.group, row.attack, row.passes) for row in known}
    for network in wanted:
        load = cache(network.load)
        for number in passes:
            for one in contestants:
                if (network.name, one.group, one.name, number) in there:
                    continue
                model, cases = load()
                begin = time.process_time()
                try:
                    found = [one.run(model, case, network.epsilon, number) for case in cases]
                except ValueError as error:  # a budget that this network cannot have; the others go on
                    print(f"{network.name}, {one.group}, {one.name}: {error}", flush=True)
                    continue
                seconds = time.process_time() - begin
                clean, dice = (round(mean(part), 4) for part in zip(*found, strict=True))
                yield Row(network.name, network.epsilon, one.group, one.name, number, clean, dice, round(seconds, 1))


def summary(measured: Sequence[Row]) -> str:
    """Markdown: for each network, group and number of passes ours and the best of the others."""
    lines = [
        "| network | budget | passes | ours | Dice | best of the others | its Dice | at least as strong |",
        "|---|---|---:|---|---:|---|---:|---|",
    ]
    ours = {(one.group, one.name) for one in CONTESTANTS if one.ours}
    cells: dict[tuple[str, str, int], list[Row]] = {}
    for row in measured:
        cells.setdefault((row.network, row.group, row.passes), []).append(row)
    names = list(dict.fromkeys(row.network for row in measured))
    for network, group, passes in sorted(cells, key=lambda cell: (names.index(cell[0]), cell[2])):
        own = cells[network, group, passes]
        others = [row for row in own if (row.group, row.attack) not in ours]
        if not others:
            continue
        best = min(others, key=lambda row: row.dice)
        for row in own:
            if (row.group, row.attack) not in ours:
                continue
            holds = row.dice <= best.dice + ROOM
            budget = f"{row.budget_hu:g} HU" if group == VOXELS else group
            lines.append(
                f"| {network} | {budget} | {passes} | {row.attack} | {row.dice:.3f} | {best.attack} | "
                f"{best.dice:.3f} | {'yes' if holds else '**no**'} |"
            )
    return "\n".join(lines)


def read(path: Path) -> list[Row]:
    """The rows of a CSV file, none where there is no file."""
    return read_rows(path, Row)


def with_table(text: str, folder: Path) -> str:
    """The page with its table made anew from the CSV file in ``folder``."""
    return replace_table(text, TABLE, summary(read(folder / TABLE)))


def main() -> int:
    """Measure what is missing, and renew the page where its CSV file was written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equal_cost", description=__doc__)
    parser.add_argument("output", type=Path, help="CSV file; rows that it has are kept")
    parser.add_argument("--only", nargs="+", help="networks whose name contains one of these")
    parser.add_argument("--passes", type=int, nargs="+", default=PASSES, help="numbers of passes")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="attacks that have one budget")
    parser.add_argument("--attacks", nargs="+", help="attacks whose name contains one of these")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured = read(arguments.output)
    wanted = [n for n in networks() if not arguments.only or any(part in n.name for part in arguments.only)]
    contestants = [
        one
        for one in CONTESTANTS
        if one.group in arguments.groups and (not arguments.attacks or any(p in one.name for p in arguments.attacks))
    ]
    for row in rows(wanted, measured, arguments.passes, contestants):
        measured.append(row)
        write_rows(arguments.output, measured, Row)
        print(row, flush=True)
    page = DOCS / PAGE
    if arguments.output.resolve() == (DOCS / TABLE).resolve() and page.is_file():
        page.write_text(with_table(page.read_text(encoding="utf-8"), DOCS), encoding="utf-8")
    print(summary(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
