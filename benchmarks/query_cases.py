# SPDX-License-Identifier: Apache-2.0
"""Crops of phantoms around their organs, small enough for hundreds of queries on a CPU."""

from __future__ import annotations

import torch

from benchmarks.strength import phantom_cases

__all__ = ["CROP", "crop_around_organs", "phantom_crops"]

CROP = (32, 32, 32)


def crop_around_organs(
    image: torch.Tensor, label: torch.Tensor, size: tuple[int, ...] = CROP
) -> tuple[torch.Tensor, torch.Tensor]:
    """A box of ``size`` voxels about the center of all organs, inside the image.

    Args:
        image: (1, 1, spatial...).
        label: class map of the same shape.
        size: voxels along each axis.
    """
    places = (label[0, 0] > 0).nonzero().double().mean(dim=0).round().long().tolist()
    box = []
    for place, extent, length in zip(places, label.shape[2:], size, strict=True):
        start = min(max(place - length // 2, 0), extent - length)
        box.append(slice(start, start + length))
    where = (slice(None), slice(None), *box)
    return image[where].contiguous(), label[where].contiguous()


def phantom_crops(count: int, seed: int, size: tuple[int, ...] = CROP) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Crops of phantoms as the CT bundle's network sees them."""
    return [crop_around_organs(image, label, size) for image, label in phantom_cases(count, "cpu", seed)]
