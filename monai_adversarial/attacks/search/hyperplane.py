# SPDX-License-Identifier: Apache-2.0
"""The smallest change that raises a linear function by a given amount, inside a box."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import per_sample

__all__ = ["smallest_raise"]

#: halvings of the exponent of a multiplier that is at most 2**DOUBLINGS times the one without a box
HALVINGS, DOUBLINGS = 30, 40.0


def smallest_raise(
    slope: torch.Tensor, rise: torch.Tensor, low: torch.Tensor, high: torch.Tensor, norm: str
) -> torch.Tensor:
    """The change of smallest norm with ``slope . change = rise``; the corner of the box where it is out of reach.

    >>> import torch
    >>> from monai_adversarial.attacks.search.hyperplane import smallest_raise
    >>> slope, wide = torch.tensor([[[3.0, -4.0]]]), torch.full((1, 1, 2), 9.0)
    >>> smallest_raise(slope, torch.tensor([5.0]), -wide, wide, "l2")
    tensor([[[ 0.6000, -0.8000]]])

    Args:
        slope: of the function, (batch, channel, spatial...).
        rise: by how much, (batch,); below zero to lower it.
        low: lowest change of each voxel, <= 0.
        high: highest change of each voxel, >= 0.
        norm: ``"linf"``, ``"l2"`` or ``"l1"``.
    """
    sign = torch.where(rise < 0, -1.0, 1.0).to(slope)
    slope, rise = slope * per_sample(sign, slope), rise.abs()
    room = torch.where(slope > 0, high, low)
    if norm == "l1":
        return _largest_slopes_first(slope, rise, room)
    way = slope.sign() if norm == "linf" else slope
    tiny = torch.finfo(slope.dtype).tiny
    first = rise / (way * slope).flatten(1).sum(dim=1).clamp_min(tiny)

    def change(exponent: torch.Tensor) -> torch.Tensor:
        wanted = way * per_sample(first * torch.exp2(exponent), way)
        return torch.maximum(torch.minimum(wanted, high), low)

    def enough(exponent: torch.Tensor) -> torch.Tensor:
        return (slope * change(exponent)).flatten(1).sum(dim=1) >= rise * (1 - 1e-5)

    below, above = torch.zeros_like(rise), torch.full_like(rise, DOUBLINGS)
    free = enough(below)  # the box does not matter
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        reached = enough(middle)
        below, above = torch.where(reached, below, middle), torch.where(reached, middle, above)
    return change(torch.where(free, 0.0, above))


def _largest_slopes_first(slope: torch.Tensor, rise: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """The same for L1: voxels are filled to the edge of the box in the order of their slopes, the last one in part."""
    steep, order = slope.abs().flatten(1).sort(dim=1, descending=True)
    rooms = room.flatten(1).gather(1, order)
    gains = steep * rooms.abs()
    missing = rise[:, None] - (gains.cumsum(dim=1) - gains)
    share = (missing / gains.clamp_min(torch.finfo(gains.dtype).tiny)).clamp(0, 1)
    filled = torch.zeros_like(rooms).scatter(1, order, share * rooms)
    return filled.view_as(slope)
