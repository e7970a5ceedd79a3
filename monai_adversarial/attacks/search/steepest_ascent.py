# SPDX-License-Identifier: Apache-2.0
"""Steepest ascent with projection: FGSM, BIM, PGD and MI-FGSM."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.search.base import Search, SearchRun, steepest_direction
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = ["SCHEDULES", "SelfAdaptiveMomentum", "SteepestAscent", "falling_or_given"]

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

    >>> from monai_adversarial.attacks import SteepestAscent
    >>> search = SteepestAscent(relative_step=2.0, schedule="linear")
    >>> [search.step_at(step, 4) for step in range(4)]
    [2.0, 1.5, 1.0, 0.5]

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


def falling_or_given(first_step: float, relative_step: float | None, schedule: str | None) -> SteepestAscent:
    """The search of a recipe whose steps fall linearly by default, and are what its user says otherwise.

    Args:
        first_step: fraction of the budget's radius from which the default falls.
        relative_step: of the user; None for the default.
        schedule: of the user's steps; None for constant ones.

    Raises:
        ValueError: a schedule without the step that it belongs to.
    """
    if relative_step is not None:
        return SteepestAscent(relative_step, schedule="constant" if schedule is None else schedule)
    if schedule is not None:
        raise ValueError(
            f"schedule is how steps of relative_step go on, got schedule={schedule!r} without relative_step: without "
            f"either, the steps fall linearly from {first_step:g} times the budget."
        )
    return SteepestAscent(first_step, schedule="linear")


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
            weight = self._weight(previous, tuple(scaled))
            scaled = [
                (weight if isinstance(weight, float) else per_sample(weight, new)) * old + new
                for old, new in zip(previous, scaled, strict=True)
            ]
        self.points["velocity"] = tuple(scaled)
        return tuple(scaled)

    def _weight(self, previous: Parameters, latest: Parameters) -> float | torch.Tensor:
        """What the velocity so far counts, for all samples or each of them, (batch,)."""
        return self.search.momentum


class SelfAdaptiveMomentum(SteepestAscent):
    """Steepest ascent whose momentum is large where gradient and velocity agree, and small where they do not.

    The weight is ``lowest + (highest - lowest) * (1 + cosine) / 2`` of the angle between them.

    Source: the momentum with a self-adaptive weight that the abstract of SAGM (Zhang et al. 2023) names; the formula is
    a reconstruction.

    Survey entry: A16 (reconstruction).

    Args:
        relative_step, schedule: see :class:`SteepestAscent`.
        lowest: weight of a velocity that the gradient opposes.
        highest: weight of a velocity that it agrees with.

    Raises:
        ValueError: for weights that are not in this order.

    Example:
        >>> from monai_adversarial.attacks import AdditiveNoise, Attack, SelfAdaptiveMomentum
        >>> from monai_adversarial.data.example import example_case
        >>> noise = AdditiveNoise(16, units="HU")
        >>> result = Attack(noise, search=SelfAdaptiveMomentum(), steps=3)(*example_case())
        >>> bool(result.adversarial_dice < result.clean_dice)
        True
    """

    def __init__(
        self, relative_step: float = 0.25, schedule: str = "constant", lowest: float = 0.3, highest: float = 1.0
    ) -> None:
        super().__init__(relative_step, 1.0, schedule)
        self.lowest = check_positive("lowest", lowest, allow_zero=True)
        self.highest = check_positive("highest", highest)
        if self.lowest > self.highest:
            raise ValueError(f"lowest must be at most highest, got {lowest!r} and {highest!r}.")

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        return _SelfAdaptiveMomentumRun(self, bound, steps)


class _SelfAdaptiveMomentumRun(_SteepestAscentRun):
    search: SelfAdaptiveMomentum

    def _weight(self, previous: Parameters, latest: Parameters) -> torch.Tensor:
        old, new = (torch.cat([part.flatten(1) for part in parts], dim=1) for parts in (previous, latest))
        cosine = torch.nn.functional.cosine_similarity(old, new, dim=1)
        return self.search.lowest + (self.search.highest - self.search.lowest) * (1 + cosine) / 2
