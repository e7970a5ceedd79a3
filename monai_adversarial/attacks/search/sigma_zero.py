# SPDX-License-Identifier: Apache-2.0
"""Sigma-zero: sparse noise by a smooth L0 norm, and its blocks of voxels."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun, cosine
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["SigmaZeroSearch"]

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class SigmaZeroSearch(MinimalSearch):
    """Adam on the objective and a smooth count of the blocks that change, ``mean of s / (s + sigma)`` with the mean
    square ``s`` of a block's change; blocks whose largest change is below a threshold are set to zero. The threshold
    rises after a success and falls after a failure.

    >>> from monai_adversarial.attacks import MinimalNoise, MinimalNormAttack, SigmaZeroSearch
    >>> from monai_adversarial.data.example import example_case
    >>> noise = MinimalNoise("l0", block=4, units="HU")
    >>> result = MinimalNormAttack(noise, search=SigmaZeroSearch(), steps=10)(*example_case(16))
    >>> bool(result.success), float(result.smallest_norm.values) < 64
    (True, True)

    Args:
        step: of Adam at the beginning, in spans, the paper's eta of 1; it falls to a tenth along a cosine.
        sigma: 0.001 in the paper.
        threshold: the first one, in spans, the paper's tau of 0.3.
        threshold_step: change of the threshold as a share of the step, 0.01 in the paper.

    Source: Cina, Villani, Pintor, Schoenherr, Biggio, Pelillo, "Sigma-zero: gradient-based optimization of L0-norm
    adversarial examples", ICLR 2025, algorithm 1. Blocks of voxels instead of pixels are ours.
    """

    norms = ("l0",)

    def __init__(
        self, step: float = 1.0, sigma: float = 1e-3, threshold: float = 0.3, threshold_step: float = 0.01
    ) -> None:
        self.step = check_positive("step", step)
        self.sigma = check_positive("sigma", sigma)
        self.threshold = check_fraction("threshold", threshold)
        self.threshold_step = check_fraction("threshold_step", threshold_step)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _SigmaZeroRun(self, bound, steps)


class _SigmaZeroRun(MinimalSearchRun):
    def __init__(self, search: SigmaZeroSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        image = bound.scene.image
        self.points["first"], self.points["second"] = ((torch.zeros_like(image),) for _ in range(2))
        self.state["threshold"] = image.new_full((image.shape[0],), search.threshold)

    def _mean_square(self, noise: torch.Tensor) -> torch.Tensor:
        """Of each block, at each of its voxels."""
        square = noise.square().mean(dim=1, keepdim=True)
        if self.bound.block == 1:
            return square
        pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[noise.ndim - 2]
        return self.bound.on_voxels(pool(square, self.bound.block, ceil_mode=True, count_include_pad=False))

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        search, state, points = self.search, self.state, self.points
        size = search.step * (1.0 if step == 0 else cosine(1.0, 0.1, (step - 1) / self.steps))
        square = self._mean_square(noise)
        sparse = 2 * noise * search.sigma / (square + search.sigma).square() / noise[0].numel()
        # A sample that has succeeded has no hinge left: only the count pulls.
        slope = sparse - torch.where(per_sample(success, noise), 0.0, gradient)
        slope = slope / per_sample(slope.flatten(1).abs().amax(dim=1).clamp_min(1e-12), slope)
        first = BETA1 * points["first"][0] + (1 - BETA1) * slope
        second = BETA2 * points["second"][0] + (1 - BETA2) * slope.square()
        points["first"], points["second"] = (first,), (second,)
        mean, spread = first / (1 - BETA1 ** (step + 1)), second / (1 - BETA2 ** (step + 1))
        down, up = self.room
        moved = torch.maximum(torch.minimum(noise - size * mean / (spread.sqrt() + EPSILON), up), down)
        change = search.threshold_step * size
        state["threshold"] = (state["threshold"] + torch.where(success, change, -change)).clamp(0, 1)
        blocks = self.bound.blocks(moved)
        return moved * self.bound.on_voxels(blocks >= per_sample(state["threshold"], blocks))
