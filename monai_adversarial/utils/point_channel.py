# SPDX-License-Identifier: Apache-2.0
"""Points as a channel of an image."""

from __future__ import annotations

import math

import torch

__all__ = ["read_points", "write_points"]


def write_points(channel: torch.Tensor, points: torch.Tensor, present: torch.Tensor | None = None) -> torch.Tensor:
    """A channel whose first voxels hold the number of points and their coordinates; differentiable in the points.

    >>> import torch
    >>> from monai_adversarial.utils.point_channel import read_points, write_points
    >>> channel = write_points(torch.zeros(1, 1, 4, 4), torch.tensor([[[1.0, 2.0]]]))
    >>> channel.flatten().tolist()[:4], read_points(channel, 1).tolist()
    ([1.0, 1.0, 2.0, 0.0], [[[1.0, 2.0]]])

    Args:
        channel: (batch, 1, spatial...), whose shape and type the result has.
        points: (batch, point, axis) in voxels.
        present: boolean (batch, point), which rows are points; None for all. They come first.

    Raises:
        ValueError: where the volume has too few voxels, or the axes do not fit.
    """
    batch, count, axes = points.shape
    shape = channel.shape[2:]
    if axes != len(shape) or 1 + count * axes > math.prod(shape) or batch != channel.shape[0]:
        raise ValueError(
            f"points must have shape ({channel.shape[0]}, points, {len(shape)}) and fit into the {math.prod(shape)} "
            f"voxels of a channel, got {tuple(points.shape)}."
        )
    number = points.new_full((batch, 1), count) if present is None else present.sum(dim=1, keepdim=True).to(points)
    if present is not None:
        points = points * present.unsqueeze(2)
    rest = points.new_zeros(batch, math.prod(shape) - 1 - count * axes)
    return torch.cat([number, points.flatten(1), rest], dim=1).view(batch, 1, *shape).to(channel)


def read_points(channel: torch.Tensor, count: int) -> torch.Tensor:
    """The points of a channel that ``write_points`` has made, (batch, count, axis).

    Args:
        channel: (batch, 1, spatial...).
        count: number of points.
    """
    axes = channel.ndim - 2
    return channel.flatten(1)[:, 1 : 1 + count * axes].reshape(-1, count, axes)
