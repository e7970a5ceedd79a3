# SPDX-License-Identifier: Apache-2.0
"""Linear interpolation along single axes of a volume, with an exact, deterministic adjoint as its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

__all__ = ["AxisInterpolation", "resample_axes"]


class _Taps:
    """A sparse linear map along one axis, as a few gathers: output = sum over t of weights[t] * input[indices[t]].

    Gathers are exact float32 under autocast and TF32, and deterministic on a GPU where scattering is not.
    """

    def __init__(self, targets: np.ndarray, sources: np.ndarray, weights: np.ndarray, size: int) -> None:
        order = np.lexsort((sources, targets))
        targets, sources, weights = targets[order], sources[order], weights[order]
        rank = np.arange(len(targets)) - np.searchsorted(targets, targets)
        count = int(rank.max()) + 1
        self.indices = np.zeros((count, size), dtype=np.int64)
        self.weights = np.zeros((count, size))
        self.indices[rank, targets] = sources
        self.weights[rank, targets] = weights
        self._tensors: dict[tuple[torch.device, torch.dtype], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, image: torch.Tensor, axis: int) -> torch.Tensor:
        key = (image.device, image.dtype)
        if key not in self._tensors:
            self._tensors[key] = (
                torch.as_tensor(self.indices, device=image.device),
                torch.as_tensor(self.weights, device=image.device, dtype=image.dtype),
            )
        indices, weights = self._tensors[key]
        weights = weights.reshape(len(weights), -1, *[1] * (image.ndim - axis - 1))
        result = _gathered(image, indices[0], axis).mul_(weights[0])
        for index, weight in zip(indices[1:], weights[1:], strict=True):
            result.addcmul_(_gathered(image, index, axis), weight)
        return result


def _gathered(image: torch.Tensor, index: torch.Tensor, axis: int) -> torch.Tensor:
    """The samples ``index`` along an axis: what ``image[..., index, :]`` gives, without its slow general kernel."""
    if axis < image.ndim - 1:
        return image.index_select(axis, index)  # copies whole rows
    return image.gather(axis, index.expand(*image.shape[:-1], -1))


class _AlongAxis(torch.autograd.Function):
    """Applies one map; its gradient is the adjoint map, itself differentiable the same way."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, forward: _Taps, adjoint: _Taps, axis: int) -> torch.Tensor:
        ctx.maps = (forward, adjoint, axis)
        return forward(image, axis)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        forward, adjoint, axis = ctx.maps
        return _AlongAxis.apply(gradients[0], adjoint, forward, axis), None, None, None


class AxisInterpolation:
    """Linear interpolation of an axis of ``size`` samples at fixed positions; outside, the border value is repeated.

    Args:
        size: number of samples of the input axis.
        positions: where to sample, in voxels of the input axis, 0 being the center of the first voxel.
    """

    def __init__(self, size: int, positions: Sequence[float] | np.ndarray) -> None:
        where = np.clip(np.asarray(positions, dtype=np.float64), 0.0, size - 1.0)
        lower = np.minimum(np.floor(where).astype(np.int64), max(size - 2, 0))
        upper = np.minimum(lower + 1, size - 1)
        fraction = where - lower
        output = np.arange(len(where))
        outputs, inputs = np.concatenate([output, output]), np.concatenate([lower, upper])
        weights = np.concatenate([1.0 - fraction, fraction])
        used = weights != 0.0
        outputs, inputs, weights = outputs[used], inputs[used], weights[used]
        self.size = size
        self.output_size = len(where)
        self._forward = _Taps(outputs, inputs, weights, self.output_size)
        self._adjoint = _Taps(inputs, outputs, weights, self.size)

    def __call__(self, image: torch.Tensor, axis: int) -> torch.Tensor:
        """Interpolate ``image`` along ``axis``.

        Args:
            image: floating-point tensor of any rank.
            axis: non-negative axis.

        Raises:
            ValueError: when the axis has another length than ``size``.
        """
        if image.shape[axis] != self.size:
            raise ValueError(f"axis {axis} of image must have {self.size} samples, got shape {tuple(image.shape)}.")
        result: torch.Tensor = _AlongAxis.apply(image, self._forward, self._adjoint, axis)
        return result


def resample_axes(image: torch.Tensor, axes: Sequence[AxisInterpolation | None]) -> torch.Tensor:
    """Interpolate the last ``len(axes)`` axes of ``image``, those that shrink most first; None leaves an axis alone."""
    first = image.ndim - len(axes)
    steps = [(axis.output_size / axis.size, first + number, axis) for number, axis in enumerate(axes) if axis]
    for _, number, axis in sorted(steps, key=lambda step: step[:2]):
        image = axis(image, number)
    return image
