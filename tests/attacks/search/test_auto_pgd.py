# SPDX-License-Identifier: Apache-2.0
"""Auto-PGD goes through the points of algorithm 1 of its paper, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks.perturbations.additive import AdditiveNoise
from monai_adversarial.attacks.search import AutoPGD
from monai_adversarial.attacks.search.apgd import checkpoints
from monai_adversarial.utils.scene import Scene

#: where -(x - TOP)^2 is highest; all numbers below are sums of powers of two
TOP = 0.25


def path(search: AutoPGD, steps: int, moves: int) -> list[float]:
    """Points of the first moves of a run on one voxel, in a ball of radius 1, from its center."""
    bound = AdditiveNoise(1.0).bind(Scene(torch.zeros(1, 1, 1, 1, dtype=torch.float64), (0,)))
    run, point, found = search.begin(bound, steps), bound.zeros(), []
    for step in range(moves):
        away = point[0] - TOP
        point = run.advance(point, (-2 * away,), -away.square().flatten(1).sum(dim=1), step)
        found.append(float(point[0]))
    return found


def test_the_paper_judges_after_steps_that_are_rounded_up() -> None:
    """With 10 steps after 3 and 5. After 3 one of three steps did not raise the value, after 5 one of two: the step
    halves, the point is the best one, .375, and the momentum is from the point before."""
    found = path(AutoPGD(schedule="constant"), steps=10, moves=6)
    first = [1.0, -0.25, 0.375]  # steps of 2, the first of them without momentum
    second = [0.375 + 0.75 * -1 + 0.25 * (0.375 + 0.25), -0.21875 + 0.75 * 1 + 0.25 * (-0.21875 - 0.375)]  # of 1
    third = [0.375 + 0.75 * -0.5 + 0.25 * (0.375 + 0.21875)]  # of 1/2, from the best point, not from .3828125
    assert found == [*first, *second, *third]


def test_the_code_of_its_authors_judges_earlier() -> None:
    """With 10 steps after each from 2 on. There one of two steps did not raise the value: back to 0, with half the
    step and the momentum from 1."""
    found = path(AutoPGD(schedule="constant", rounding="down"), steps=10, moves=3)
    assert found == [1.0, -0.25, 0.0 + 0.75 * 1 + 0.25 * (0.0 - 1.0)]


@pytest.mark.parametrize(
    ("steps", "up", "down"),
    [
        (10, [3, 5, 6, 7, 8, 9], [2, 3, 4, 5, 6, 7, 8, 9]),
        (100, [22, 41, 57, 70, 80, 87, 93, 99], [22, 41, 57, 70, 80, 87, 93, 99]),
    ],
)
def test_roundings_differ_for_few_steps_alone(steps: int, up: list[int], down: list[int]) -> None:
    assert checkpoints(steps) == up
    assert checkpoints(steps, "down") == down


def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(ValueError, match="rounding must be"):
        AutoPGD(rounding="nearest")
