# SPDX-License-Identifier: Apache-2.0
"""Surfaces of masks and of probabilities, and how much of two of them lies within some mm of the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
import torch.nn.functional as F

from monai_adversarial.attacks.targets.shapes import distance_outside

__all__ = ["ball_in_mm", "near_surface", "surface_places", "surfaces", "weighted_near"]

#: relative room of a distance that equals the tolerance
ROUNDING = 1e-6


def _strides(shape: Sequence[int]) -> list[int]:
    """By how much the place in a flattened volume grows along each axis."""
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def surfaces(masks: torch.Tensor) -> torch.Tensor:
    """What an erosion by one voxel takes away: of masks the voxels of their surface, of probabilities a soft surface.

    The erosion looks at the neighbors along each axis, and outside of the volume is nothing, as in MONAI's surface
    metrics.

    >>> import torch
    >>> from monai_adversarial.attacks.objectives.soft_surface import surfaces
    >>> surfaces(torch.tensor([[[0.0, 0.5, 1.0, 1.0, 1.0, 0.0]]]))
    tensor([[[0.0000, 0.5000, 0.5000, 0.0000, 1.0000, 0.0000]]])

    Args:
        masks: from 0 to 1, (batch, organ, spatial...); differentiable.
    """
    dimensions = masks.ndim - 2
    padded = F.pad(masks, (1, 1) * dimensions)
    strides = _strides(padded.shape[2:])
    # One gather keeps the gradient; minima of shifted copies would keep them all.
    with torch.no_grad():
        least, inner = masks, [slice(None), slice(None), *[slice(1, -1)] * dimensions]
        where = torch.arange(padded[0, 0].numel(), device=masks.device).view(padded.shape[2:])
        where = where[tuple(inner[2:])].expand(masks.shape)
        center = where
        for axis, stride in enumerate(strides, start=2):
            for step in (-1, 1):
                box = list(inner)
                box[axis] = slice(0, -2) if step < 0 else slice(2, None)
                neighbor = padded[tuple(box)]
                smaller = neighbor < least
                least = torch.where(smaller, neighbor, least)
                where = torch.where(smaller, center + step * stride, where)
    return masks - padded.flatten(2).gather(2, where.flatten(2)).view_as(masks)


def ball_in_mm(tolerance: float, spacing: Sequence[Sequence[float]]) -> torch.Tensor:
    """Which voxels of a box lie within a distance of its middle, boolean (batch, box...), on the CPU.

    >>> from monai_adversarial.attacks.objectives.soft_surface import ball_in_mm
    >>> ball_in_mm(2.0, [[1.0, 2.0]]).int()
    tensor([[[0, 1, 0],
             [0, 1, 0],
             [1, 1, 1],
             [0, 1, 0],
             [0, 1, 0]]], dtype=torch.int32)

    Args:
        tolerance: mm.
        spacing: mm along each axis, of each sample; the box holds the largest ball.
    """
    far = tolerance * (1 + ROUNDING)
    widths = [int(max(far / steps[axis] for steps in spacing)) for axis in range(len(spacing[0]))]
    balls = []
    for steps in spacing:
        axes = [
            torch.arange(-width, width + 1, dtype=torch.float64) * step
            for width, step in zip(widths, steps, strict=True)
        ]
        square = sum(axis.square() for axis in torch.meshgrid(*axes, indexing="ij"))
        balls.append(torch.as_tensor(square) <= far**2)
    return torch.stack(balls)


def near_surface(surface: torch.Tensor, spacing: Sequence[Sequence[float]], tolerance: float) -> torch.Tensor:
    """Voxels within a distance of a surface, boolean like ``surface``; none where there is no surface.

    Args:
        surface: boolean (batch, organ, spatial...).
        spacing: mm along each axis, of each sample.
        tolerance: mm.
    """
    near = torch.zeros_like(surface)
    for sample, organs in enumerate(surface):
        for organ, mask in enumerate(organs):
            if bool(mask.any()):
                distance = distance_outside(mask, spacing[sample])
                near[sample, organ] = (distance <= tolerance * (1 + ROUNDING)).to(mask.device)
    return near


def surface_places(surface: torch.Tensor, weight: torch.Tensor | None, box: Sequence[int]) -> dict[str, torch.Tensor]:
    """The voxels of surfaces as a list for each sample, all as long as the longest.

    Args:
        surface: boolean (batch, organ, spatial...).
        weight: (batch, spatial...) of the voxels; None for ones.
        box: size of the box of ``ball_in_mm``, by half of which the volume is padded.

    Returns:
        ``place`` in the flattened organs of the padded volume, ``organ`` and ``weight`` (0 for what only fills the
        list), each (batch, voxel).
    """
    half = [size // 2 for size in box]
    padded = [size + 2 * more for size, more in zip(surface.shape[2:], half, strict=True)]
    lists = []
    for sample, mask in enumerate(surface):
        organ, *voxel = mask.nonzero(as_tuple=True)
        place = organ
        for axis, size, more in zip(voxel, padded, half, strict=True):
            place = place * size + axis + more
        heavy = torch.ones_like(organ, dtype=torch.float32) if weight is None else weight[(sample, *voxel)].float()
        lists.append((place, organ, heavy))
    longest = max(1, *(len(place) for place, _, _ in lists))
    # What fills the list has to have all of its box inside the volume.
    first = 0
    for size, more in zip(padded, half, strict=True):
        first = first * size + more
    fill = {"place": first, "organ": 0, "weight": 0.0}
    return {
        name: torch.stack([F.pad(one[number], (0, longest - len(one[number])), value=value) for one in lists])
        for number, (name, value) in enumerate(fill.items())
    }


def weighted_near(soft: torch.Tensor, places: dict[str, torch.Tensor], ball: torch.Tensor) -> torch.Tensor:
    """Of each organ the sum over the listed voxels of the highest value within the ball around each, (batch, organ).

    Args:
        soft: a soft surface, (batch, organ, spatial...); differentiable.
        places: as ``surface_places`` returns them.
        ball: boolean (batch, box...).
    """
    half = [size // 2 for size in ball.shape[1:]]
    padded = F.pad(soft, [more for size in reversed(half) for more in (size, size)])
    strides = _strides(padded.shape[2:])
    flat, inside = padded.flatten(1), ball.flatten(1)
    with torch.no_grad():  # as in ``surfaces``
        highest = torch.full_like(places["weight"], -1.0).to(flat.dtype)
        where = places["place"]
        for number, offset in enumerate(product(*(range(-size, size + 1) for size in half))):
            shifted = places["place"] + sum(step * stride for step, stride in zip(offset, strides, strict=True))
            higher = flat.gather(1, shifted)
            better = (higher > highest) & inside[:, number : number + 1]
            highest, where = torch.where(better, higher, highest), torch.where(better, shifted, where)
    found = flat.gather(1, where) * places["weight"].to(flat.dtype)
    return found.new_zeros(soft.shape[:2]).scatter_add(1, places["organ"], found)
