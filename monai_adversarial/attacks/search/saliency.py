# SPDX-License-Identifier: Apache-2.0
"""Jacobian-based saliency: the blocks that promise most are changed as far as they may, one after the other."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun
from monai_adversarial.utils.validation import check_count, check_fraction, check_positive

__all__ = ["SaliencySearch"]


class SaliencySearch(MinimalSearch):
    """JSMA on blocks of voxels: in each step the ``per_step`` unchanged blocks with the highest saliency change by
    ``theta`` along the sign of the gradient, inside the range of values; a sample that has succeeded stays.

    The saliency of a block is how much the objective would rise if it were linear. The paper's product of the wanted
    and the other classes' slopes is the slope of their margin here, which a segmentation of many voxels has as well.

    >>> from monai_adversarial.attacks import MinimalNoise, MinimalNormAttack, SaliencySearch
    >>> from monai_adversarial.data.example import example_case
    >>> search = SaliencySearch(largest_share=0.8, per_step=8)
    >>> attack = MinimalNormAttack(MinimalNoise("l0", block=4, units="HU"), search=search, steps=7)
    >>> result = attack(*example_case(16))
    >>> float(result.smallest_norm.values) <= 56, result.smallest_norm.units
    (True, 'blocks of 4 voxels along each axis')

    Args:
        theta: change of a voxel in spans, 1 in the paper: to the edge of the range.
        largest_share: of the blocks that may change at most, 0.1 in the paper's successors.
        per_step: blocks, 2 in the paper; more for images of many blocks.

    Source: Papernot et al., "The limitations of deep learning in adversarial settings", 2016; read as Carlini and
    Wagner 2017 restate it.
    """

    norms = ("l0",)

    def __init__(self, theta: float = 1.0, largest_share: float = 0.1, per_step: int = 2) -> None:
        self.theta = check_positive("theta", theta)
        self.largest_share = check_fraction("largest_share", largest_share)
        self.per_step = check_count("per_step", per_step)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _SaliencyRun(self, bound, steps)


class _SaliencyRun(MinimalSearchRun):
    def __init__(self, search: SaliencySearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        count = bound.blocks(bound.scene.image)[0].numel()
        self.per_step = min(search.per_step, count)
        self.most = max(1, int(search.largest_share * count))

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        search = self.search
        down, up = self.room
        change = torch.maximum(torch.minimum(search.theta * gradient.sign(), up), down)
        gain = self._sums(gradient * change)
        touched = self.bound.blocks(noise) > 0
        gain = torch.where(touched, -1.0, gain).flatten(1)
        best = gain.topk(self.per_step, dim=1)
        some = (best.values > 0) & ~success[:, None] & (self.length(noise) + self.per_step <= self.most)[:, None]
        chosen = torch.zeros_like(gain).scatter(1, best.indices, some.to(gain.dtype)).view_as(touched)
        return torch.where(self.bound.on_voxels(chosen) > 0, change, noise)

    def _sums(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over each block's voxels and channels, (batch, 1, blocks...)."""
        values, block = values.sum(dim=1, keepdim=True), self.bound.block
        if block == 1:
            return values
        pool = {1: torch.nn.functional.avg_pool1d, 2: torch.nn.functional.avg_pool2d, 3: torch.nn.functional.avg_pool3d}
        axes = values.ndim - 2
        short = [-size % block for size in values.shape[2:]]
        padded = torch.nn.functional.pad(values, [part for size in reversed(short) for part in (0, size)])
        return pool[axes](padded, block) * block**axes
