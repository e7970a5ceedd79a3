# SPDX-License-Identifier: Apache-2.0
"""Median of each voxel's neighborhood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.utils import ensure_tuple
from torch.autograd.function import once_differentiable

from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.purifiers.neighborhood import box_offsets, pad_with_border, shifted
from monai_adversarial.utils.validation import check_choice, check_count

__all__ = ["MedianDenoise", "MedianDenoiseD", "MedianDenoiseDict", "MedianDenoised"]

# voxels worked on at once: what stays in a CPU's cache; a GPU wants few large pieces
_VOXELS_ON_CPU, _VOXELS_ELSEWHERE = 1 << 15, 1 << 23


class MedianDenoise(Purifier):
    """Median filter, border values outside.

    Equal, to the bit, to ``scipy.ndimage.median_filter(mode="nearest")`` with the same footprint, and for
    ``shape="cube"`` to MONAI's ``MedianSmooth``, which sorts a copy of the image per neighbor and is slower; here
    minima and maxima of shifted images are taken until one is left.

    Differentiable almost everywhere: an attacker goes through it exactly, which hands each voxel's gradient to the one
    neighbor that is the median (or to equal parts to those that are: whole HU tie often). That is sparse, so
    the mean over the same neighborhood (same footprint, same borders) is offered as ``surrogate``: a reconstruction
    with a dense gradient, the same for every image. Neither is always the stronger attack: try both.

    >>> import numpy as np
    >>> from monai_adversarial.transforms import MedianDenoise
    >>> image = np.zeros((1, 7, 7))
    >>> image[0, 3, 3], image[0, :, 0] = 1000.0, 50.0
    >>> smooth = MedianDenoise(size=3)(image)
    >>> float(smooth[0, 3, 3]), float(smooth[0, 3, 0])  # one voxel is gone, the line at the border stays
    (0.0, 50.0)

    Args:
        size: voxels along each axis, odd; one number or one per axis, for instance ``(3, 3, 1)`` for thick slices.
        shape: ``"cross"``, the voxel and its neighbors along the axes (7 voxels of size 3 in 3D), which spares small
            structures, or ``"cube"``, all voxels within ``size`` (27).
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`; not used.

    Source: Xu, Evans and Qi, Feature Squeezing, NDSS 2018 (windows of 2 x 2 and 3 x 3 pixels).

    Survey entry: P01 (adapted).
    """

    gradient = "exact"

    def __init__(
        self, size: int | Sequence[int] = 3, shape: str = "cross", intensity: Any = None, spacing: Any = None
    ) -> None:
        super().__init__(intensity, spacing)
        self.size = tuple(check_count("size", value) for value in ensure_tuple(size))
        if any(value % 2 == 0 for value in self.size) or not 1 <= len(self.size) <= 3:
            raise ValueError(f"size must be one odd number of voxels or one per axis, got {size!r}.")
        self.shape = check_choice("shape", shape, ("cross", "cube"))

    @property
    def in_hounsfield(self) -> bool:
        """No: it compares voxels with each other only."""
        return False

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Median of each voxel's neighborhood."""
        radius, offsets = self._neighbors(image)
        return _Median.apply(pad_with_border(image, radius), radius, offsets)

    def surrogate(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Mean of each voxel's neighborhood, in 1 to 3 dimensions; samples and channels apart."""
        radius, offsets = self._neighbors(image)
        kernel = torch.zeros([2 * r + 1 for r in radius], dtype=image.dtype)
        for offset in offsets:
            kernel[tuple(r + o for r, o in zip(radius, offset, strict=True))] = 1.0 / len(offsets)
        convolution = (F.conv1d, F.conv2d, F.conv3d)[len(radius) - 1]
        single = pad_with_border(image, radius).flatten(0, 1)[:, None]
        return convolution(single, kernel.to(image.device)[None, None]).view_as(image)

    def _neighbors(self, image: torch.Tensor) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        dimensions = image.ndim - 2
        size = self.size * dimensions if len(self.size) == 1 else self.size
        if len(size) != dimensions:
            raise ValueError(f"size has {len(size)} numbers, but the image has {dimensions} spatial dimensions.")
        radius = tuple(value // 2 for value in size)
        offsets = box_offsets(radius)
        if self.shape == "cross":
            offsets = [offset for offset in offsets if sum(o != 0 for o in offset) <= 1]
        return radius, offsets


class _Median(torch.autograd.Function):
    """Median over shifts of a padded batch; keeps two images for the backward pass, not one per comparison."""

    @staticmethod
    def forward(ctx, padded: torch.Tensor, radius, offsets) -> torch.Tensor:  # type: ignore[override]
        neighbors = [shifted(padded, radius, offset) for offset in offsets]
        out = torch.empty_like(neighbors[0], memory_format=torch.contiguous_format)
        at_once = _VOXELS_ON_CPU if padded.device.type == "cpu" else _VOXELS_ELSEWHERE
        length = max(1, at_once * out.shape[2] // out.numel())
        for start in range(0, out.shape[2], length):
            piece = slice(start, start + length)
            out[:, :, piece] = _median([neighbor[:, :, piece] for neighbor in neighbors])
        ctx.save_for_backward(padded, out)
        ctx.radius, ctx.offsets = radius, offsets
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):  # type: ignore[override]
        padded, median = ctx.saved_tensors
        ties = torch.zeros_like(median)
        for offset in ctx.offsets:
            ties += shifted(padded, ctx.radius, offset) == median
        share = gradient / ties
        out = torch.zeros_like(padded)
        for offset in ctx.offsets:
            at_offset = shifted(out, ctx.radius, offset)
            at_offset += share * (shifted(padded, ctx.radius, offset) == median)
        return out, None, None


def _median(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Median of an odd number of tensors, elementwise.

    Of any ``n // 2 + 2`` of ``n`` values neither the smallest nor the largest is the median: drop both, take in the
    next value, and so on.
    """
    first = len(values) // 2 + 2
    kept, waiting = list(values[:first]), list(values[first:])
    while len(kept) > 1:
        last = len(kept) - 1
        for i in range(len(kept) // 2):  # smaller ones to the first half, larger ones to the second
            _sort(kept, i, last - i)
        for i in range(1, (last + 2) // 2):
            _sort(kept, 0, i)
        for i in range((last + 1) // 2, last):
            _sort(kept, i, last)
        kept = [*kept[1:-1], *waiting[:1]]
        waiting = waiting[1:]
    return kept[0]


def _sort(values: list[torch.Tensor], i: int, j: int) -> None:
    values[i], values[j] = torch.minimum(values[i], values[j]), torch.maximum(values[i], values[j])


MedianDenoiseD = MedianDenoiseDict = MedianDenoised = dictionary_form(
    MedianDenoise,
    """
    >>> import numpy as np
    >>> from monai_adversarial.transforms import MedianDenoised
    >>> item = {"ct": np.pad([[[900.0]]], ((0, 0), (2, 2), (2, 2)))}
    >>> float(MedianDenoised(["ct", "pet"], allow_missing_keys=True)(item)["ct"].max())
    0.0
    >>> MedianDenoised("ct", size=2)
    Traceback (most recent call last):
    ValueError: size must be one odd number of voxels or one per axis, got 2.
    """,
)
