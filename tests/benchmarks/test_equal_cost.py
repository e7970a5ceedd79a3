# SPDX-License-Identifier: Apache-2.0
"""The table of equal cost keeps what each start left, and tells apart only what its starts tell apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.equal_cost import Row, rows, summary
from benchmarks.equal_cost_attacks import WARP, Contestant
from benchmarks.steps_to_dice import Network
from monai_adversarial.data.example import example_case

OURS = Row("network", 8.0, WARP, "elastic", 5, 0.9, 0.30, 1.0, 1, "0.3")
OTHER = replace(OURS, attack="loop", dice=0.31, dice_of_starts="0.31")


def last_cells(*measured: Row) -> list[str]:
    return [cell.strip() for cell in summary(measured).splitlines()[-1].strip("|").split("|")]


def test_a_row_keeps_the_dice_after_every_start() -> None:
    model, image, label = example_case(16)
    network = Network("example", 8.0, lambda: (model, [(image, label), (image, label)]))
    told = Contestant("told", WARP, True, lambda model, case, budget, passes, seed: (0.9, 0.1 + 0.1 * seed))
    (row,) = rows([network], passes=(3,), contestants=[told], starts=3)
    assert (row.dice, row.starts, row.dice_of_starts) == (0.2, 3, "0.1000 0.2000 0.3000")
    assert row.variance == pytest.approx(0.01 / 3)
    assert not list(rows([network], [row], (3,), [told], starts=3))
    assert len(list(rows([network], [row], (3,), [told], starts=4))) == 1


@pytest.mark.parametrize(("dice", "verdict"), [(0.30, "yes"), (0.311, "yes"), (0.32, "**no**")])
def test_single_starts_count_as_they_are(dice: float, verdict: str) -> None:
    cells = last_cells(replace(OURS, dice=dice, dice_of_starts=str(dice)), OTHER)
    assert cells[-1] == verdict and cells[5] == f"{dice:.3f}"


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ("0.10 0.11 0.12", "yes"),
        ("0.29 0.30 0.31", "not told apart"),
        ("0.31 0.32 0.33", "not told apart"),
        ("0.49 0.50 0.51", "**no**"),
    ],
)
def test_several_starts_say_whether_they_tell_apart(ours: str, verdict: str) -> None:
    mean = sum(map(float, ours.split())) / 3
    other = replace(OTHER, starts=3, dice_of_starts="0.29 0.31 0.33")
    cells = last_cells(replace(OURS, dice=mean, starts=3, dice_of_starts=ours), other)
    assert cells[-1] == verdict
    assert cells[5] == f"{mean:.3f} ± 0.006" and cells[7] == "0.310 ± 0.012"
