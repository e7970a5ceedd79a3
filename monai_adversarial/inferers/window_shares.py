# SPDX-License-Identifier: Apache-2.0
"""How overlapping windows share their voxels, in the memory of one window."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

__all__ = ["WindowShares"]

Box = tuple[slice, ...]


class WindowShares:
    """The blending weight of a window, divided by the sum of the weights of all windows at its voxels.

    The sum over a whole volume would be one more volume. Around one window it is known from the few windows beside it.

    Args:
        slices: the windows' places, one slice per spatial axis each: all combinations of some starts along each axis.
        weight: blending weights (1, 1, window); None for ones.
        dtype: of the shares where all weights are ones; otherwise they have that of the weights.
    """

    def __init__(self, slices: Sequence[Box], weight: torch.Tensor | None, dtype: torch.dtype = torch.float32) -> None:
        self.weight, self.dtype = weight, dtype
        self.size = tuple(part.stop - part.start for part in slices[0])
        self._starts = [sorted({window[axis].start for window in slices}) for axis in range(len(self.size))]
        self.overlap = any(
            later - earlier < size
            for starts, size in zip(self._starts, self.size, strict=True)
            for earlier, later in itertools.pairwise(starts)
        )

    def of(self, window: Box, device: torch.device) -> torch.Tensor | None:
        """The share of one window, (1, window); None where no windows overlap and all weights are one.

        Args:
            window: its place.
            device: where the share is wanted.
        """
        if self.weight is None and not self.overlap:
            return None
        beside = [
            [start - part.start for start in starts if abs(start - part.start) < size]
            for part, starts, size in zip(window, self._starts, self.size, strict=True)
        ]
        if self.weight is None:
            return self._numbers(beside, device).reciprocal_()[None]
        weight = self.weight[0, 0].to(device)
        total = torch.zeros_like(weight)
        for offsets in itertools.product(*beside):  # in the order of the windows, as stitching adds them
            here = tuple(slice(max(o, 0), size + min(o, 0)) for o, size in zip(offsets, self.size, strict=True))
            theirs = tuple(slice(max(-o, 0), size + min(-o, 0)) for o, size in zip(offsets, self.size, strict=True))
            total[here] += weight[theirs]
        return torch.div(weight, total, out=total)[None]

    def _numbers(self, beside: list[list[int]], device: torch.device) -> torch.Tensor:
        """How many windows hold each voxel: the product of how many there are along each axis."""
        numbers = torch.ones((), dtype=self.dtype, device=device)
        for offsets, size in zip(beside, self.size, strict=True):
            along = torch.zeros(size, dtype=self.dtype, device=device)
            for offset in offsets:
                along[max(offset, 0) : size + min(offset, 0)] += 1
            numbers = numbers[..., None] * along
        return numbers
