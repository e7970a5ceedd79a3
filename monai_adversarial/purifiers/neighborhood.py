# SPDX-License-Identifier: Apache-2.0
"""Neighbors of all voxels at once, as shifted views of a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F

__all__ = ["box_offsets", "pad_with_border", "shifted"]


def box_offsets(radius: Sequence[int]) -> list[tuple[int, ...]]:
    """All offsets within ``radius`` voxels along each axis, in lexicographic order: the middle one is no offset.

    >>> from monai_adversarial.purifiers.neighborhood import box_offsets
    >>> box_offsets((1, 0))
    [(-1, 0), (0, 0), (1, 0)]
    """
    return list(product(*(range(-r, r + 1) for r in radius)))


def pad_with_border(image: torch.Tensor, radius: Sequence[int]) -> torch.Tensor:
    """``image`` (batch, channel, spatial...) with ``radius`` voxels of its border values on each side of each axis.

    >>> import torch
    >>> from monai_adversarial.purifiers.neighborhood import pad_with_border
    >>> pad_with_border(torch.tensor([[[1.0, 2.0]]]), radius=(1,)).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    """
    if not any(radius):
        return image
    return F.pad(image, [r for r in reversed(radius) for _ in range(2)], mode="replicate")


def shifted(padded: torch.Tensor, radius: Sequence[int], offset: Sequence[int]) -> torch.Tensor:
    """View of the neighbor at ``offset`` of each voxel that was there before ``radius`` voxels were padded.

    >>> import torch
    >>> from monai_adversarial.purifiers.neighborhood import pad_with_border, shifted
    >>> padded = pad_with_border(torch.tensor([[[1.0, 2.0, 3.0]]]), radius=(1,))
    >>> shifted(padded, radius=(1,), offset=(1,)).tolist()  # the neighbor behind each voxel
    [[[2.0, 3.0, 3.0]]]
    """
    view = padded
    for axis, (r, o) in enumerate(zip(radius, offset, strict=True), start=2):
        view = view.narrow(axis, r + o, padded.shape[axis] - 2 * r)
    return view
