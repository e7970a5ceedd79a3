# SPDX-License-Identifier: Apache-2.0
"""Steepest ascent with projection: FGSM, BIM, PGD and MI-FGSM."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.attacks.search.base import Search, SearchRun, steepest_direction
from monai_adversarial.utils.validation import check_positive

__all__ = ["SteepestAscent"]


class SteepestAscent(Search):
    """Steps of constant size along the steepest direction of the budget's norm (signs for L-infinity).

    Args:
        relative_step: step size as a fraction of the budget's radius.
        momentum: decay of the accumulated gradient, which is divided by its mean absolute value at each step (MI-FGSM,
            Dong et al. 2018); 0 for none.
    """

    def __init__(self, relative_step: float = 0.25, momentum: float = 0.0) -> None:
        self.relative_step = check_positive("relative_step", relative_step)
        self.momentum = check_positive("momentum", momentum, allow_zero=True)

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
        moved = tuple(
            parameter + self.search.relative_step * radius * steepest_direction(gradient, norm)
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
