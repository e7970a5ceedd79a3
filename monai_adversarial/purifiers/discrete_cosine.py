# SPDX-License-Identifier: Apache-2.0
"""Discrete cosine transforms of the blocks of an image, by matrix products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch

__all__ = [
    "attack_spread",
    "blockwise_dct",
    "dct_matrix",
    "pad_to_blocks",
    "quantize",
    "repeat_edges",
    "soft_quantize",
    "tile_blocks",
    "transform_axis",
]


@lru_cache(maxsize=64)
def dct_matrix(size: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Orthonormal DCT-II matrix (frequency, position); its transpose is its inverse. Shared: do not change it."""
    index = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * index[:, None] * (index + 0.5)) * math.sqrt(2.0 / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix.to(device=device, dtype=dtype)


def repeat_edges(image: torch.Tensor, before: Sequence[int], after: Sequence[int]) -> torch.Tensor:
    """Repeat the border values of the last ``len(before)`` axes so many times in front of and behind them.

    Its gradient is deterministic on a GPU, which that of ``torch.nn.functional.pad`` is not.
    """
    for axis, (first, last) in enumerate(zip(before, after, strict=True), start=image.ndim - len(before)):
        parts = [image]
        if first:
            parts.insert(0, image.narrow(axis, 0, 1).expand(*image.shape[:axis], first, *image.shape[axis + 1 :]))
        if last:
            parts.append(image.narrow(axis, -1, 1).expand(*image.shape[:axis], last, *image.shape[axis + 1 :]))
        image = torch.cat(parts, dim=axis) if len(parts) > 1 else image
    return image


def pad_to_blocks(image: torch.Tensor, block: Sequence[int]) -> torch.Tensor:
    """Repeat the last voxels until the last ``len(block)`` axes hold whole blocks; zeros would make steps that cost
    coefficients."""
    lengths = image.shape[image.ndim - len(block) :]
    return repeat_edges(image, [0] * len(block), [-n % size for n, size in zip(lengths, block, strict=True)])


def blockwise_dct(image: torch.Tensor, block: Sequence[int], inverse: bool = False) -> torch.Tensor:
    """Orthonormal DCT of every block; each coefficient stands where the voxel of the same index in its block stood.

    Equal to ``scipy.fft.dctn(norm="ortho")`` (``idctn``) of each block to 1e-4 relative in float32.

    Args:
        image: any leading axes, then ``len(block)`` axes whose lengths are multiples of ``block``.
        block: block length along each of the last axes; 1 leaves an axis alone.
        inverse: coefficients to voxels.

    Raises:
        ValueError: when an axis does not hold whole blocks.
    """
    shape = image.shape
    if any(length % size for length, size in zip(shape[image.ndim - len(block) :], block, strict=True)):
        raise ValueError(f"image must hold whole blocks of {tuple(block)}, got shape {tuple(shape)}.")
    for axis, size in enumerate(block, start=image.ndim - len(block)):
        if size > 1:
            matrix = dct_matrix(size, image.device, image.dtype)
            image = transform_axis(image, axis, matrix.T if inverse else matrix)
    return image


def transform_axis(image: torch.Tensor, axis: int, matrix: torch.Tensor) -> torch.Tensor:
    """Replace every block along ``axis``, as long as ``matrix`` has columns, by ``matrix`` times it."""
    shape, size, after = image.shape, matrix.shape[1], math.prod(image.shape[axis + 1 :])
    # Autocast would round the coefficients to half precision.
    with torch.autocast(image.device.type, enabled=False):
        if after == 1:
            image = image.reshape(-1, size) @ matrix.T
        else:
            image = matrix @ image.reshape(-1, size, after)
    return image.reshape(shape)


def tile_blocks(table: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A table for one block, repeated over the last axes of ``shape``."""
    lengths = shape[len(shape) - table.ndim :]
    return table.tile([length // size for length, size in zip(lengths, table.shape, strict=True)])


def quantize(coefficients: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """The nearest multiples of ``steps``; halves go away from zero, as in libjpeg."""
    turns = coefficients / steps
    return turns.abs().add_(0.5).floor_().copysign_(turns).mul_(steps)


def soft_quantize(coefficients: torch.Tensor, steps: torch.Tensor, spread: float) -> torch.Tensor:
    """Differentiable stand-in for :func:`quantize`: its expectation when the coefficients carry normal noise.

    Its slope is 1 on average, as rounding's: the identity for steps much finer than ``spread``; for coarser ones small
    where a change is rounded away (above all around zero) and large where the next value is within reach. With
    ``spread`` near what an attacker can do to a coefficient, PGD through it is stronger than through the identity, a
    mask of the coefficients that survive, or ``c - sin(2 pi c) / (2 pi)`` for all steps alike.

    Args:
        coefficients: any shape.
        steps: that broadcast to it.
        spread: standard deviation of the noise; counts as at least a tenth of a step, so that no slope vanishes.
    """
    relative = (spread / steps).clamp_min(0.1)
    turns = coefficients * (2.0 * math.pi / steps)
    # The Fourier series of rounding's sawtooth, damped by the noise: five terms are exact to 1e-3 steps.
    for order in range(1, 6):
        weight = (-1) ** order / (math.pi * order) * torch.exp(-2.0 * (math.pi * order * relative) ** 2)
        coefficients = coefficients + steps * weight * torch.sin(order * turns)
    return coefficients


def attack_spread(block: Sequence[int]) -> float:
    """``spread`` in HU of :func:`soft_quantize` for attacks of several HU per voxel: an eighth of what 6 HU in every
    voxel of a block make of one coefficient. Found by experiment on a CT phantom: half or twice as much is weaker."""
    return 6.0 / 8.0 * math.sqrt(math.prod(block))
