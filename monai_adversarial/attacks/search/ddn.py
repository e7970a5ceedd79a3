# SPDX-License-Identifier: Apache-2.0
"""Decoupling direction and norm."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun, cosine, unit
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["DDNSearch"]


class DDNSearch(MinimalSearch):
    """Decoupled direction and norm: a step along the gradient, then back to a sphere that shrinks by ``gamma`` after a
    success and grows by ``gamma`` after a failure.

    >>> from monai_adversarial.attacks import DDNSearch, MinimalNoise, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> attack = MinimalNormAttack(MinimalNoise("l2", units="HU"), search=DDNSearch(gamma=0.2), steps=15)
    >>> result = attack(*example_case(16))
    >>> bool(result.boundary_distance < result.image.numel() ** 0.5 * 20)
    True

    Args:
        gamma: relative change of the norm, 0.05 in the paper.
        initial_norm: of the sphere, in spans; None for a root mean square of 1/255 over the voxels that may change. The
            paper's 1 is about that for an image of 256 x 256.
        first_step: length of the first step as a share of ``initial_norm``, 1 in the paper; it falls to a hundredth
            along a cosine.
        growth: of the norm until the first success, which the paper does not treat apart (1.05): images of a million
            voxels may begin far from the boundary.

    Source: Rony, Hafemann, Oliveira, Ben Ayed, Sabourin, Granger, "Decoupling direction and norm for efficient
    gradient-based L2 adversarial attacks and defenses", CVPR 2019, algorithm 1.
    """

    norms = ("l2",)

    def __init__(
        self,
        gamma: float = 0.05,
        initial_norm: float | None = None,
        first_step: float = 1.0,
        growth: float = 1.5,
    ) -> None:
        self.gamma = check_fraction("gamma", gamma)
        self.initial_norm = None if initial_norm is None else check_positive("initial_norm", initial_norm)
        self.first_step = check_positive("first_step", first_step)
        self.growth = check_positive("growth", growth)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _DDNRun(self, bound, steps)


class _DDNRun(MinimalSearchRun):
    def __init__(self, search: DDNSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        counted = bound.count.to(bound.scene.image.dtype).sqrt() / 255
        self.state["first"] = counted if search.initial_norm is None else torch.full_like(counted, search.initial_norm)
        self.state["radius"] = self.state["first"]
        self.state["found"] = torch.zeros_like(counted, dtype=torch.bool)

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        search, state = self.search, self.state
        state["found"] = state["found"] | success
        larger = torch.where(state["found"], 1.0 + search.gamma, max(search.growth, 1.0 + search.gamma))
        # The clean image, where the run begins, says nothing about the first sphere.
        if step > 0:
            state["radius"] = state["radius"] * torch.where(success, 1.0 - search.gamma, larger)
        size = search.first_step * cosine(1.0, 0.01, step / self.steps) * state["first"]
        moved = noise + per_sample(size, noise) * unit(gradient)
        return unit(moved) * per_sample(state["radius"], noise)
