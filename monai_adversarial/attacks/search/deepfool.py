# SPDX-License-Identifier: Apache-2.0
"""DeepFool: from linearized boundary to linearized boundary."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.hyperplane import smallest_raise
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun
from monai_adversarial.utils.validation import check_positive

__all__ = ["DeepFoolSearch"]


class DeepFoolSearch(MinimalSearch):
    """Each step goes to where the linearized objective is at the boundary, by the smallest change in the box of values;
    a sample that has succeeded stays where it is.

    >>> from monai_adversarial.attacks import DeepFoolSearch, MinimalNoise, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> attack = MinimalNormAttack(MinimalNoise("l1", units="HU"), search=DeepFoolSearch(), steps=8)
    >>> result = attack(*example_case(16))
    >>> bool(result.success), result.norm
    (True, 'l1')

    Args:
        overshoot: by which the whole way is longer than the sum of its steps, 0.02 in the paper.
        largest_step: share of the linearized distance that a step goes at most, 1 in the paper.

    Source: Moosavi-Dezfooli, Fawzi, Frossard, "DeepFool: a simple and accurate method to fool deep neural networks",
    CVPR 2016, algorithm 2. A segmentation has a margin for each voxel: it is their mean that is linearized.
    """

    norms = ("linf", "l2", "l1")

    def __init__(self, overshoot: float = 0.02, largest_step: float = 1.0) -> None:
        self.overshoot = check_positive("overshoot", overshoot, allow_zero=True)
        self.largest_step = check_positive("largest_step", largest_step)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _DeepFoolRun(self, bound, steps)


class _DeepFoolRun(MinimalSearchRun):
    def __init__(self, search: DeepFoolSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        search = self.search
        down, up = self.room
        way = self.points.get("way", (noise,))[0]
        rise = self.gap(values, success).clamp_min(0) * search.largest_step
        change = smallest_raise(gradient, rise, down - noise, up - noise, self.bound.norm)
        way = way + torch.where(per_sample(success, noise), 0.0, change)
        self.points["way"] = (way,)
        return torch.where(per_sample(success, noise), noise, way * (1 + search.overshoot))
