# SPDX-License-Identifier: Apache-2.0
"""A finished image in the values of its file: rounded once, in stored numbers, inside the budget."""

from __future__ import annotations

from collections.abc import Callable

import torch

from monai_adversarial.utils.slabs import slabs, total
from monai_adversarial.utils.stored_grid import SLACK, StoredGrid

__all__ = ["Limits", "rounded_inside", "rounded_to_length"]

# Halvings of the share of a step from which a change is rounded up: 12 place it within 1/4096 of a step.
HALVINGS = 12

#: lowest and highest value that each voxel may take, float64, broadcastable; None for no bound
Limits = tuple[torch.Tensor | None, torch.Tensor | None]


def rounded_inside(
    grid: StoredGrid,
    image: torch.Tensor,
    adversarial: torch.Tensor,
    limits: Callable[..., Limits],
    untouched: torch.Tensor | None,
    *extra: torch.Tensor,
) -> torch.Tensor:
    """The value of the grid that is nearest to each adversarial voxel and inside its limits.

    A voxel that did not change, that must not, or between whose limits the grid has no value keeps the bits of the
    clean image. Numbers are those of the file (float64 ``k`` of ``intercept + k * step``), so that a budget of three
    steps is three steps, whatever float32 makes of them at 3000 HU.

    Args:
        grid: what the file can hold.
        image: the clean image, (batch, channel, spatial...).
        adversarial: the perturbed image.
        limits: of slabs of the clean image and the adversarial one, float64, and of ``extra``.
        untouched: boolean, broadcastable: voxels that must not change; None for none.
        extra: further tensors of the image's shape that ``limits`` takes in slabs.
    """
    finished = torch.empty_like(image)
    resolution = torch.finfo(image.dtype).eps
    keep = image == adversarial if untouched is None else (image == adversarial) | untouched
    for box in slabs(image.shape[2:], image.shape[0] * image.shape[1]):
        where = (slice(None), slice(None), *box)
        clean = grid.snapped(image[where].double(), resolution)
        changed = adversarial[where].double()
        low, high = limits(clean, changed, *(one[where] for one in extra))
        place = grid.place(changed).round_()
        kept = keep[where]
        if low is not None:
            first = grid.first_from(low)
            place = torch.maximum(place, first)
        if high is not None:
            last = grid.last_until(high)
            place = torch.minimum(place, last)
        if low is not None:
            kept = kept | (place < first)  # no value of the grid lies between the limits
        kept = kept | (grid.value(place) == clean)
        finished[where] = torch.where(kept, image[where], grid.value(place).to(image.dtype))
    return finished


def rounded_to_length(grid: StoredGrid, image: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Noise that leads from values of the grid to values of the grid, with a Euclidean length of at most its own.

    Rounding every voxel toward the clean image would undo a change of less than a step everywhere; rounding each to the
    nearest value can lengthen the whole. So the voxels whose change is the largest part of a step are rounded away from
    the clean image, as many as the length allows, and the others toward it.

    Args:
        grid: what the file can hold.
        image: the clean image, (batch, channel, spatial...).
        noise: of the same shape.

    Returns:
        the noise in multiples of the step (from a clean value off the grid: up to a value of it).
    """
    resolution = torch.finfo(image.dtype).eps

    def rounded(clean: torch.Tensor, change: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        exact = grid.snapped(clean.double(), resolution)
        start, end = grid.place(exact), grid.place(exact + change.double())
        sign = torch.where(end >= start, 1.0, -1.0).to(end)
        near = sign * (sign * end + SLACK).floor()
        part = (end - near).abs()
        up = (part > 2 * SLACK) & (part >= share)
        # Where no value of the grid lies between, the nearer one is the clean value itself.
        chosen = torch.where(up, near + sign, torch.where(sign * near < sign * start, start, near))
        return (chosen - start) * grid.step

    allowed = total(lambda change: change.double().square(), noise)
    shape = (-1, *[1] * (noise.ndim - 1))
    low = torch.zeros_like(allowed)
    high = torch.full_like(allowed, 2.0)  # nothing is rounded up
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        length = total(lambda c, n, s: rounded(c, n, s).square(), image, noise, middle.view(shape))
        fits = length <= allowed
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    wanted = torch.empty_like(noise)
    for box in slabs(image.shape[2:], image.shape[0] * image.shape[1]):
        where = (slice(None), slice(None), *box)
        wanted[where] = rounded(image[where], noise[where], high.view(shape)).to(noise.dtype)
    return wanted
