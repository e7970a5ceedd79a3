# SPDX-License-Identifier: Apache-2.0
"""Auto-PGD: a step size that halves itself per sample."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.search.base import Search, SearchRun, steepest_direction
from monai_adversarial.attacks.search.steepest_ascent import SCHEDULES
from monai_adversarial.utils.validation import check_choice, check_fraction, check_positive

__all__ = ["AutoPGD", "checkpoints"]

ROUNDINGS = ("up", "down")
# The first period, by what the next one is shorter, and the shortest, as shares of the run.
FIRST, SHORTER, SHORTEST = 0.22, 0.03, 0.06


def checkpoints(steps: int, rounding: str = "up") -> list[int]:
    """Steps after which the progress is judged: p(0)=0, p(1)=0.22, p(j+1)=p(j)+max(p(j)-p(j-1)-0.03, 0.06), times
    ``steps``.

    >>> from monai_adversarial.attacks.search.apgd import checkpoints
    >>> checkpoints(20), checkpoints(20, rounding="down")
    ([5, 9, 12, 14, 16, 18, 19], [4, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19])

    Args:
        steps: of the run.
        rounding: ``"up"``: each checkpoint is rounded up, as in the paper; ``"down"``: the length of each period, what
            it is shortened by and its least length are rounded down, to one step at least, as in its authors' code.
    """
    if rounding == "down":
        length, shorter, shortest = (max(int(share * steps), 1) for share in (FIRST, SHORTER, SHORTEST))
        found, mark = [], length
        while mark < steps:
            found.append(mark)
            length = max(length - shorter, shortest)
            mark += length
        return found
    marks = [0.0, FIRST]
    while marks[-1] < 1.0:
        marks.append(marks[-1] + max(marks[-1] - marks[-2] - SHORTER, SHORTEST))
    return [mark for mark in sorted({math.ceil(round(mark * steps, 6)) for mark in marks[1:]}) if 0 < mark < steps]


class AutoPGD(Search):
    """Auto-PGD (Croce and Hein 2020): momentum, a first step of twice the radius, and per-sample halving at
    checkpoints; the steps fall besides.

    At a checkpoint a sample's step halves and it returns to its best point when fewer than ``success_ratio`` of its
    steps raised the objective, or when neither its step nor its best value changed since the last checkpoint. The paper
    has hundreds of steps for that. With few, halving alone comes too late: the step of every sample is therefore
    multiplied by a schedule as well (docs/search.md has the figures), and begins at the best point without momentum.

    The search of the paper is ``AutoPGD(schedule="constant")``, whose momentum goes on from the point before, as
    algorithm 1 there has it. Its authors' code departs from the paper where a run is short: it rounds the periods
    between checkpoints down. With 10 and 20 steps that judges earlier and more often and was stronger
    (docs/equal_cost.md): ``AutoPGD(schedule="constant", rounding="down")``. With 100 steps both are the same.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, AutoPGD
    >>> from monai_adversarial.data.example import example_case
    >>> result = Attack(AdditiveNoise(16, units="HU"), search=AutoPGD(), steps=5)(*example_case(16))
    >>> bool(result.objective >= result.objective_history.max())
    True

    Args:
        momentum: weight of the new projected point against the previous movement, 0.75 in the paper.
        success_ratio: the paper's rho, 0.75.
        relative_step: first step as a fraction of the budget's radius, 2 in the paper.
        schedule: by what the step is multiplied as the run goes on, see
            :class:`~monai_adversarial.attacks.SteepestAscent`; ``"constant"`` in the paper.
        rounding: of the checkpoints, ``"up"`` as in the paper or ``"down"`` as in its authors' code; see
            :func:`checkpoints`.

    Raises:
        ValueError: for a fraction that is not between 0 and 1, a step that is not positive, an unknown schedule or
            rounding.

    Source: Croce and Hein, ICML 2020, section 3; the schedule is our own.
    """

    def __init__(
        self,
        momentum: float = 0.75,
        success_ratio: float = 0.75,
        relative_step: float = 2.0,
        schedule: str = "linear",
        rounding: str = "up",
    ) -> None:
        self.momentum = check_fraction("momentum", momentum)
        self.success_ratio = check_fraction("success_ratio", success_ratio)
        self.relative_step = check_positive("relative_step", relative_step)
        self.schedule = check_choice("schedule", schedule, tuple(SCHEDULES))
        self.rounding = check_choice("rounding", rounding, ROUNDINGS)

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        return _AutoPGDRun(self, bound, steps)


class _AutoPGDRun(SearchRun):
    def __init__(self, search: AutoPGD, bound: BoundPerturbation, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        self.marks = checkpoints(steps, search.rounding)
        self.last_mark = 0

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        state, points = self.state, self.points
        values = values.detach()
        if step == 0:
            state["step_size"] = torch.full_like(values, self.search.relative_step)
            state["step_at_mark"] = state["step_size"].clone()
            state["raised"] = torch.zeros_like(values)
            state["best"], state["best_at_mark"], state["previous_value"] = values, values, values
            points["best_parameters"], points["best_gradients"] = parameters, gradients
            points["previous"] = parameters
        else:
            state["raised"] = state["raised"] + (values > state["previous_value"])
            state["previous_value"] = values
            better = values > state["best"]
            state["best"] = torch.where(better, values, state["best"])
            points["best_parameters"] = _choose(better, parameters, points["best_parameters"])
            points["best_gradients"] = _choose(better, gradients, points["best_gradients"])
            if step in self.marks:
                parameters, gradients = self._judge(parameters, gradients, step)
        moved = self._move(parameters, gradients, step)
        points["previous"] = parameters
        return moved

    def _judge(self, parameters: Parameters, gradients: Parameters, step: int) -> tuple[Parameters, Parameters]:
        state, points = self.state, self.points
        interval = step - self.last_mark
        stalled = state["raised"] < self.search.success_ratio * interval
        unchanged = (state["step_at_mark"] == state["step_size"]) & (state["best_at_mark"] == state["best"])
        halve = stalled | unchanged
        state["step_at_mark"] = state["step_size"]
        state["best_at_mark"] = state["best"]
        state["step_size"] = torch.where(halve, state["step_size"] / 2, state["step_size"])
        state["raised"] = torch.zeros_like(state["raised"])
        self.last_mark = step
        if self.search.schedule != "constant":
            # Ours, and a little stronger where the steps fall besides (benchmarks/NOTES.md).
            points["previous"] = _choose(halve, points["best_parameters"], points["previous"])
        return _choose(halve, points["best_parameters"], parameters), _choose(
            halve, points["best_gradients"], gradients
        )

    def _move(self, parameters: Parameters, gradients: Parameters, step: int) -> Parameters:
        weight = 1.0 if step == 0 else self.search.momentum
        size = self.state["step_size"] * SCHEDULES[self.search.schedule](step / self.steps)
        ahead = self.bound.project(
            tuple(
                parameter + per_sample(size, parameter) * radius * steepest_direction(gradient, norm)
                for parameter, gradient, radius, norm in zip(
                    parameters, gradients, self.bound.radii, self.bound.norms, strict=True
                )
            )
        )
        if weight == 1.0:
            return ahead
        previous = self.points["previous"]
        return self.bound.project(
            tuple(
                parameter + weight * (new - parameter) + (1.0 - weight) * (parameter - old)
                for parameter, new, old in zip(parameters, ahead, previous, strict=True)
            )
        )


def _choose(where: torch.Tensor, yes: Parameters, no: Parameters) -> Parameters:
    return tuple(torch.where(per_sample(where, a), a, b) for a, b in zip(yes, no, strict=True))
