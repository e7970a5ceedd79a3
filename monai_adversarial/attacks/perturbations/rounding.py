# SPDX-License-Identifier: Apache-2.0
"""A finished image in the values of its file: rounded once, in stored numbers, inside the budget."""

from __future__ import annotations

from collections.abc import Callable

import torch

from monai_adversarial.utils.slabs import slabs
from monai_adversarial.utils.stored_grid import StoredGrid

__all__ = ["Limits", "rounded_inside"]

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
