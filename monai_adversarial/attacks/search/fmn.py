# SPDX-License-Identifier: Apache-2.0
"""Fast minimum norm: steps along the gradient in a ball that follows the boundary."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.perturbations.norms import norm_of
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun, cosine, unit
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["FMNSearch", "dual_length"]

#: a gradient is a change per change: its length is measured in the dual norm
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


class FMNSearch(MinimalSearch):
    """Fast minimum norm, for L-infinity, L2, L1 and L0.

    Before a sample's first success the radius of its ball is that of the boundary as the gradient sees it; from then on
    it shrinks by ``gamma`` after a success, to the smallest one at most, and grows by ``gamma`` after a failure. Of L0
    the radius is a number of blocks and changes by one at least.

    >>> from monai_adversarial.attacks import FMNSearch, MinimalNoise, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> attack = MinimalNormAttack(MinimalNoise("l1", units="HU"), search=FMNSearch(gamma=0.2), steps=10)
    >>> bool(attack(*example_case(16)).boundary_distance.isfinite())
    True

    Args:
        gamma: relative change of the radius at the beginning, 0.05 in the paper; it falls to ``last_gamma`` along a
            cosine.
        last_gamma: 0.001 in the paper.
        first_step: root mean square of the first step over the voxels that may change, in spans; it falls to a
            hundredth along a cosine. The paper's Euclidean length of 1 is 1/55 in its images of 3 x 32 x 32.

    Source: Pintor, Roli, Brendel, Biggio, "Fast minimum-norm adversarial attacks through adaptive norm constraints",
    NeurIPS 2021, algorithm 1 and table 1.
    """

    def __init__(self, gamma: float = 0.05, last_gamma: float = 0.001, first_step: float = 1 / 55) -> None:
        self.gamma = check_fraction("gamma", gamma)
        self.last_gamma = check_fraction("last_gamma", last_gamma)
        self.first_step = check_positive("first_step", first_step)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _FMNRun(self, bound, steps)


class _FMNRun(MinimalSearchRun):
    def __init__(self, search: FMNSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        self.state["step"] = search.first_step * bound.count.to(bound.scene.image.dtype).sqrt()
        start = 1.0 if bound.norm == "l0" else torch.inf
        self.state["radius"] = torch.full_like(self.state["step"], start)

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        search, state, done = self.search, self.state, step / self.steps
        gamma = cosine(search.gamma, search.last_gamma, done)
        _, best = self.smallest(noise, success)
        gap = self.gap(values, success)
        radius, norm = state["radius"], self.length(noise)
        if self.bound.norm == "l0":
            smaller = torch.minimum(torch.minimum(radius - 1, (radius * (1 - gamma)).floor()), best)
            larger = torch.maximum(radius + 1, (radius * (1 + gamma)).floor())
            radius = torch.where(success, smaller, larger).clamp_min(1)
        else:
            slope = dual_length(gradient, self.bound.norm).clamp_min(torch.finfo(noise.dtype).tiny)
            seen = norm + gap.abs() / slope
            known = best.isfinite()
            radius = torch.where(known, radius * (1 + gamma), seen)
            radius = torch.where(
                success, torch.minimum(torch.where(known, state["radius"], norm), best) * (1 - gamma), radius
            )
        state["radius"] = radius
        length = state["step"] * cosine(1.0, 0.01, done)
        return self.bound.within(noise + per_sample(length, noise) * unit(gradient), radius)


def dual_length(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """By how much a linear objective rises along its best noise of norm one, (batch,).

    >>> import torch
    >>> from monai_adversarial.attacks.search.fmn import dual_length
    >>> slope = torch.tensor([[[3.0, -4.0]]])
    >>> [dual_length(slope, norm).item() for norm in ("linf", "l2", "l1")]
    [7.0, 5.0, 4.0]

    Args:
        gradient: (batch, channel, spatial...).
        norm: of the noise: ``"linf"``, ``"l2"`` or ``"l1"``.
    """
    return norm_of(gradient, DUAL[norm])
