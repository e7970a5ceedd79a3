# SPDX-License-Identifier: Apache-2.0
"""Volumes cut into slabs, so that temporary tensors have the size of one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

__all__ = ["SLAB_ELEMENTS", "slabs"]

#: elements of one temporary tensor of a slab: 16 MiB in float32, which a core's caches and page faults barely notice
SLAB_ELEMENTS = 2**22


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
