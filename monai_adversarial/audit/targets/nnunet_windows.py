# SPDX-License-Identifier: Apache-2.0
"""Sliding windows where nnU-Net puts them, with its blending weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from monai_adversarial.inferers.memory_bounded import MemoryBoundedSliceInferer, MemoryBoundedSlidingWindowInferer

__all__ = ["NNUNetSlices", "NNUNetWindows"]

#: of nnU-Net's predictor: step between windows and width of the Gaussian, as fractions of the window
STEP, SIGMA, LARGEST_WEIGHT = 0.5, 1.0 / 8.0, 10.0


class NNUNetWindows(MemoryBoundedSlidingWindowInferer):
    """nnU-Net's sliding windows as a MONAI inferer with exact input gradients.

    MONAI steps by half a window and moves the last window back to the edge; nnU-Net spreads the same number of windows
    evenly. MONAI centers its Gaussian between the voxels of an even window; nnU-Net puts it on a voxel, cuts it off at
    four standard deviations and rounds it to half precision. Images smaller than a window are padded with zeros, half
    on each side, by both.

    Args:
        patch_size: voxels of a window, from the plans.
        windows_per_batch: windows that run at a time.
    """

    def __init__(self, patch_size: Sequence[int], windows_per_batch: int = 1) -> None:
        super().__init__(tuple(patch_size), windows_per_batch, overlap=1.0 - STEP, mode="gaussian", sigma_scale=SIGMA)

    def _slices(self, image_size: tuple[int, ...], window_size: tuple[int, ...]) -> list[tuple[slice, ...]]:
        return _places(image_size, window_size)

    def _weight(
        self, image_size: tuple[int, ...], window_size: tuple[int, ...], device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor:
        return _gaussian(window_size, device, dtype)[None, None]


class NNUNetSlices(MemoryBoundedSliceInferer):
    """The windows of a 2D configuration: on every slice along the first axis, after nnU-Net's transposition.

    Args:
        patch_size: voxels of a window, from the plans.
        windows_per_batch: windows that run at a time.
    """

    def __init__(self, patch_size: Sequence[int], windows_per_batch: int = 1) -> None:
        super().__init__(
            0, tuple(patch_size), windows_per_batch, overlap=1.0 - STEP, mode="gaussian", sigma_scale=SIGMA
        )

    def _slices(self, image_size: tuple[int, ...], window_size: tuple[int, ...]) -> list[tuple[slice, ...]]:
        inner = _places(image_size[1:], window_size[1:])
        return [(slice(n, n + 1), *where) for n in range(image_size[0]) for where in inner]

    def _weight(
        self, image_size: tuple[int, ...], window_size: tuple[int, ...], device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor:
        return _gaussian(window_size[1:], device, dtype)[None, None, None]


def _places(image_size: Sequence[int], window_size: Sequence[int]) -> list[tuple[slice, ...]]:
    from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window

    steps = compute_steps_for_sliding_window(tuple(image_size), tuple(window_size), STEP)
    return [
        tuple(slice(start, start + size) for start, size in zip(starts, window_size, strict=True))
        for starts in itertools.product(*steps)
    ]


def _gaussian(window_size: Sequence[int], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    from nnunetv2.inference.sliding_window_prediction import compute_gaussian

    weight = compute_gaussian(tuple(window_size), SIGMA, LARGEST_WEIGHT, device=torch.device("cpu"))
    return weight.to(device=device, dtype=dtype)
