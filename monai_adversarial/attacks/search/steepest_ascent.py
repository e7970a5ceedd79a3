# SPDX-License-Identifier: Apache-2.0
"""Steepest ascent with projection: FGSM, BIM, PGD and MI-FGSM."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.attacks.search.base import Search, SearchRun, steepest_direction
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = ["SCHEDULES", "SteepestAscent"]

# Size of a step as a fraction of the first one, from the share of the run that lies behind it (0 to below 1).
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1.0 - done,
    "cosine": lambda done: 0.5 * (1.0 + math.cos(math.pi * done)),
}


class SteepestAscent(Search):
    """Steps along the steepest direction of the budget's norm (signs for L-infinity), of constant or falling size.

    Falling steps begin by crossing the budget and end by settling in it: with few steps they reach what constant ones
    need several times as many for. The size depends on the number of the step alone, so that it is the same for every
    sample and nothing waits for the device.

    Args:
        relative_step: size of the first step as a fraction of the budget's radius; 2 crosses the whole budget.
        momentum: decay of the accumulated gradient, which is divided by its mean absolute value at each step (MI-FGSM,
            Dong et al. 2018); 0 for none.
        schedule: ``"constant"``, ``"linear"`` or ``"cosine"``: step ``i`` of ``n``, from 0, has the size of the first
            one times 1, ``1 - i / n`` or ``(1 + cos(pi * i / n)) / 2``. A run of one step is the same in all three.
    """

    def __init__(self, relative_step: float = 0.25, momentum: float = 0.0, schedule: str = "constant") -> None:
        self.relative_step = check_positive("relative_step", relative_step)
        self.momentum = check_positive("momentum", momentum, allow_zero=True)
        self.schedule = check_choice("schedule", schedule, tuple(SCHEDULES))

    def step_at(self, step: int, steps: int) -> float:
        """Size of step ``step`` of ``steps`` as a fraction of the budget's radius, above 0."""
        return self.relative_step * SCHEDULES[self.schedule](step / steps)

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        return _SteepestAscentRun(self, bound, steps)


class _SteepestAscentRun(SearchRun):
    def __init__(self, search: SteepestAscent, bound: BoundPerturbation, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        if self.search.momentum > 0:
            gradients = self._accumulate(gradients)
        size = self.search.step_at(step, self.steps)
        moved = tuple(
            steepest_direction(gradient, norm).mul_(size * radius).add_(parameter)
            for parameter, gradient, radius, norm in zip(
                parameters, gradients, self.bound.radii, self.bound.norms, strict=True
            )
        )
        return self.bound.project(moved)

    def _accumulate(self, gradients: Parameters) -> Parameters:
        scaled = []
        for gradient in gradients:
            mean = gradient.flatten(1).abs().mean(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
            scaled.append(gradient / mean.view(-1, *([1] * (gradient.ndim - 1))))
        previous = self.points.get("velocity")
        if previous is not None:
            scaled = [self.search.momentum * old + new for old, new in zip(previous, scaled, strict=True)]
        self.points["velocity"] = tuple(scaled)
        return tuple(scaled)
