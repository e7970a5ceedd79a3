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
    """Orthonormal DCT-II matrix (frequency, position); its transpose is its inverse. Shared: do not change it.

    >>> import torch
    >>> from monai_adversarial.purifiers.discrete_cosine import dct_matrix
    >>> matrix = dct_matrix(8, torch.device("cpu"), torch.float64)
    >>> torch.allclose(matrix @ matrix.T, torch.eye(8, dtype=torch.float64))
    True
    """
    index = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * index[:, None] * (index + 0.5)) * math.sqrt(2.0 / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix.to(device=device, dtype=dtype)


def repeat_edges(image: torch.Tensor, before: Sequence[int], after: Sequence[int]) -> torch.Tensor:
    """Repeat the border values of the last ``len(before)`` axes so many times in front of and behind them.

    Its gradient is deterministic on a GPU, which that of ``torch.nn.functional.pad`` is not.

    >>> import torch
    >>> from monai_adversarial.purifiers.discrete_cosine import repeat_edges
    >>> repeat_edges(torch.tensor([[1, 2, 3]]), before=[1], after=[2]).tolist()
    [[1, 1, 2, 3, 3, 3]]
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
    coefficients.

    >>> import torch
    >>> from monai_adversarial.purifiers.discrete_cosine import pad_to_blocks
    >>> pad_to_blocks(torch.zeros(1, 1, 10, 16, 5), block=(8, 8, 1)).shape
    torch.Size([1, 1, 16, 16, 5])
    """
    lengths = image.shape[image.ndim - len(block) :]
    return repeat_edges(image, [0] * len(block), [-n % size for n, size in zip(lengths, block, strict=True)])


def blockwise_dct(image: torch.Tensor, block: Sequence[int], inverse: bool = False) -> torch.Tensor:
    """Orthonormal DCT of every block; each coefficient stands where the voxel of the same index in its block stood.

    Equal to ``scipy.fft.dctn(norm="ortho")`` (``idctn``) of each block to 1e-4 relative in float32.

    >>> import torch
    >>> from monai_adversarial.purifiers.discrete_cosine import blockwise_dct
    >>> coefficients = blockwise_dct(torch.full((1, 1, 8, 8), 3.0), block=(4, 4))
    >>> int((coefficients.abs() > 1e-4).sum()), round(float(coefficients.max()), 3)  # one constant of each block
    (4, 12.0)

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
    """Replace every block along ``axis``, as long as ``matrix`` has columns, by ``matrix`` times it.

    >>> import torch
    >>> from monai_adversarial.purifiers.discrete_cosine import transform_axis
    >>> swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> transform_axis(torch.tensor([[1.0, 2.0, 3.0, 4.0]]), axis=1, matrix=swap).tolist()
    [[2.0, 1.0, 4.0, 3.0]]
    """
    shape, size, after = image.shape, matrix.shape[1], math.prod(image.shape[axis + 1 :])
    # Autocast would round the coefficients to half precision.
    with torch.autocast(image.device.type, enabled=False):
        if after == 1:
            image = image.reshape(-1, size) @ matrix.T
        else:
            image = matrix @ image.reshape(-1, size, after)
    return image.reshape(shape)


def tile_blocks(table: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A table for one block, repeated over the last axes of ``shape``.

    >>> import torch
    >>> from monai_adversarial.purifiers.discrete_cosine import tile_blocks
    >>> tile_blocks(torch.tensor([1, 2]), shape=(1, 6)).tolist()
    [1, 2, 1, 2, 1, 2]
    """
    lengths = shape[len(shape) - table.ndim :]
    return table.tile([length // size for length, size in zip(lengths, table.shape, strict=True)])


def quantize(coefficients: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """The nearest multiples of ``steps``; halves go away from zero, as in libjpeg.

    >>> import torch
    >>> from monai_adversarial.purifiers.discrete_cosine import quantize
    >>> quantize(torch.tensor([3.0, 5.0, -5.0, 14.0]), steps=torch.tensor(10.0)).tolist()
    [0.0, 10.0, -10.0, 10.0]
    """
    turns = coefficients / steps
    return turns.abs().add_(0.5).floor_().copysign_(turns).mul_(steps)


def soft_quantize(coefficients: torch.Tensor, steps: torch.Tensor, spread: float) -> torch.Tensor:
    """Differentiable stand-in for :func:`quantize`: its expectation when the coefficients carry normal noise.

    Its slope is 1 on average, as rounding's: the identity for steps much finer than ``spread``; for coarser ones small
    where a change is rounded away (above all around zero) and large where the next value is within reach. With
    ``spread`` near what an attacker can do to a coefficient, PGD through it is stronger than through the identity, a
    mask of the coefficients that survive, or ``c - sin(2 pi c) / (2 pi)`` for all steps alike.

    >>> import torch
    >>> from monai_adversarial.purifiers.discrete_cosine import soft_quantize
    >>> coefficients = torch.tensor([0.0, 5.0], requires_grad=True)
    >>> soft_quantize(coefficients, torch.tensor(10.0), spread=1.0).sum().backward()
    >>> at_zero, between = coefficients.grad.tolist()
    >>> at_zero < 0.1, between > 3  # steep where the next value is within reach
    (True, True)

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
    voxel of a block make of one coefficient. Found by experiment on a CT phantom: half or twice as much is weaker.

    >>> from monai_adversarial.purifiers.discrete_cosine import attack_spread
    >>> attack_spread((8, 8))
    6.0
    """
    return 6.0 / 8.0 * math.sqrt(math.prod(block))
