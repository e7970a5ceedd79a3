# SPDX-License-Identifier: Apache-2.0
"""Fast adaptive boundary: projections onto linearized boundaries, drawn toward the clean image."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.hyperplane import smallest_raise
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["FABSearch"]


class FABSearch(MinimalSearch):
    """Fast adaptive boundary: the point and the clean image are both projected onto the linearized boundary, and the
    next point lies between the two projections, nearer to that of the clean image the nearer this one is. After a
    success the point goes back toward the clean image.

    >>> from monai_adversarial.attacks import FABSearch, MinimalNoise, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> attack = MinimalNormAttack(MinimalNoise("linf", units="HU"), search=FABSearch(), steps=8)
    >>> bool(attack(*example_case(16)).success)
    True

    Args:
        largest_share: weight of the clean image's projection at most, the paper's alpha_max, 0.1.
        overshoot: factor of the projections, the paper's eta, 1.05.
        backward: share of the way that is left after a success, the paper's beta, 0.9.

    Source: Croce and Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020,
    algorithm 1. Its final search is that of every minimal-norm attack here.
    """

    norms = ("linf", "l2", "l1")

    def __init__(self, largest_share: float = 0.1, overshoot: float = 1.05, backward: float = 0.9) -> None:
        self.largest_share = check_fraction("largest_share", largest_share)
        self.overshoot = check_positive("overshoot", overshoot)
        self.backward = check_fraction("backward", backward)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _FABRun(self, bound, steps)


class _FABRun(MinimalSearchRun):
    def __init__(self, search: FABSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        search, norm = self.search, self.bound.norm
        down, up = self.room
        # The paper asks about the point again after going back; what its gradient says of that point is enough here.
        base = torch.where(per_sample(success, noise), search.backward * noise, noise)
        gap = self.gap(values, success) + self._inner(gradient, noise - base)
        from_clean = gap + self._inner(gradient, base)
        near = smallest_raise(gradient, gap, down - base, up - base, norm)
        far = smallest_raise(gradient, from_clean, down, up, norm)
        near_size, far_size = self.length(near), self.length(far)
        total = (near_size + far_size).clamp_min(torch.finfo(noise.dtype).tiny)
        share = per_sample((near_size / total).clamp_max(search.largest_share), noise)
        return (1 - share) * (base + search.overshoot * near) + share * search.overshoot * far

    @staticmethod
    def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).flatten(1).sum(dim=1)
