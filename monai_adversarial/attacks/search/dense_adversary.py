# SPDX-License-Identifier: Apache-2.0
"""Dense adversary generation: normalized gradient steps until the segmentation is wrong."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun
from monai_adversarial.utils.validation import check_positive

__all__ = ["DAGSearch"]


class DAGSearch(MinimalSearch):
    """Gradient steps whose largest entry is ``step``, added up until the sample succeeds; then it stays.

    >>> from monai_adversarial.attacks import DAGSearch, MinimalNoise, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> attack = MinimalNormAttack(MinimalNoise("linf", units="HU"), search=DAGSearch(step=0.01), steps=8)
    >>> bool(attack(*example_case(16)).success)
    True

    Args:
        step: largest change of a voxel in a step, in spans: the paper's gamma of 0.5 in images from 0 to 255.

    Source: Xie, Wang, Zhang, Zhou, Xie, Yuille, "Adversarial examples for semantic segmentation and object detection",
    ICCV 2017, algorithm 1.
    """

    def __init__(self, step: float = 0.5 / 255) -> None:
        self.step = check_positive("step", step)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _DAGRun(self, bound, steps)


class _DAGRun(MinimalSearchRun):
    def __init__(self, search: DAGSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        largest = gradient.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(noise.dtype).tiny)
        return noise + gradient * per_sample(torch.where(success, 0.0, self.search.step / largest), noise)
