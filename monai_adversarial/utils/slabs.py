# SPDX-License-Identifier: Apache-2.0
"""Volumes cut into slabs, so that temporary tensors have the size of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

__all__ = ["SLAB_ELEMENTS", "count_true", "largest", "slabs", "total"]

#: elements of one temporary tensor of a slab: 1 MiB in float32, so that several of them fit in a core's cache
SLAB_ELEMENTS = 2**18


def slabs(shape: Sequence[int], per_voxel: int = 1, elements: int = SLAB_ELEMENTS) -> Iterator[tuple[slice, ...]]:
    """Boxes along the first axis that cover a volume; how many depends on the shape alone, not on the machine.

    Args:
        shape: spatial shape.
        per_voxel: elements of the temporary tensors per voxel, for example the number of classes.
        elements: the most elements that a slab may have; one layer of voxels is the least it can have.
    """
    layer = max(1, math.prod(shape[1:]) * per_voxel)
    thickness = max(1, elements // layer)
    for start in range(0, shape[0], thickness):
        yield (slice(start, min(start + thickness, shape[0])), *[slice(None)] * (len(shape) - 1))


def count_true(mask: torch.Tensor) -> torch.Tensor:
    """Number of true entries of each sample of a boolean tensor, (batch,), int64, without the int64 copy of the mask
    that torch's sum makes."""
    flat = mask.flatten(1)
    total = torch.zeros(flat.shape[0], dtype=torch.int64, device=mask.device)
    for piece in flat.split(max(1, SLAB_ELEMENTS // max(1, flat.shape[0])), dim=1):
        total += piece.sum(dim=1)
    return total


def _pieces(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The same slab of several tensors (batch, channel, spatial...); axes of length one stand for the whole."""
    first = tensors[0]
    for where in slabs(first.shape[2:], math.prod(first.shape[:2])):
        yield [
            tensor[
                (
                    slice(None),
                    slice(None),
                    *(part if size > 1 else slice(None) for part, size in zip(where, tensor.shape[2:], strict=True)),
                )
            ]
            for tensor in tensors
        ]


def largest(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """Largest value of a voxelwise function over each sample, (batch,).

    Args:
        function: of the same slab of all tensors.
        tensors: (batch, channel, spatial...); the first has its full shape, the others broadcast.
    """
    found = [function(*pieces).flatten(1).amax(dim=1) for pieces in _pieces(tensors)]
    return torch.stack(found).amax(dim=0)


def total(function: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    """Sum of a voxelwise function over each sample, (batch,); see :func:`largest`."""
    found = [function(*pieces).flatten(1).sum(dim=1) for pieces in _pieces(tensors)]
    return torch.stack(found).sum(dim=0)
