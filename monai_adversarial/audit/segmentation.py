# SPDX-License-Identifier: Apache-2.0
"""A segmentation with its grid, and its way onto another grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample

from monai_adversarial.utils.plain import as_plain

__all__ = ["Segmentation", "affine_of", "label_on_image", "on_grid", "same_grid"]

#: affines that differ by less (mm) are of one grid
SAME_PLACE = 1e-2


@dataclass(frozen=True)
class Segmentation:
    """Classes of voxels on a grid.

    Args:
        values: class map (spatial...), or masks (channel, spatial...) that may overlap; integers on the CPU.
        masks: whether ``values`` are masks.
        affine: of the grid, (4, 4), in RAS mm; None where no file gave one.
    """

    values: torch.Tensor
    masks: bool = False
    affine: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the grid."""
        return tuple(self.values.shape[1:] if self.masks else self.values.shape)

    @property
    def spacing(self) -> list[float]:
        """Size of a voxel along each axis in mm; 1 where the grid has no affine."""
        rank = len(self.shape)
        if self.affine is None:
            return [1.0] * rank
        return [float(step) for step in self.affine[: self.affine.shape[0] - 1, :rank].norm(dim=0)]


def affine_of(image: Any) -> torch.Tensor | None:
    """The affine of a ``MetaTensor`` in float64; None for other images."""
    if not isinstance(image, MetaTensor):
        return None
    affine = torch.as_tensor(image.affine).detach().cpu().double()
    return affine[0] if affine.ndim == 3 else affine


def label_on_image(label: torch.Tensor, image: Any, masks: bool) -> Segmentation:
    """A label as an attack has it, (1, 1 or class, spatial...), on the grid of its image.

    Args:
        label: class map, one-hot or masks.
        image: with the grid.
        masks: whether channels may overlap.
    """
    plain = as_plain(label).detach().cpu()[0]
    values = plain if masks else plain.argmax(dim=0) if plain.shape[0] > 1 else plain[0]
    return Segmentation(values.float().round().to(torch.int32), masks, affine_of(image))


def same_grid(first: Segmentation, second: Segmentation) -> bool:
    """Whether two segmentations are on one grid."""
    if first.shape != second.shape:
        return False
    if first.affine is None or second.affine is None or first.affine.shape != second.affine.shape:
        return True
    return bool(torch.allclose(first.affine, second.affine, atol=SAME_PLACE, rtol=0))


def on_grid(moving: Segmentation, fixed: Segmentation) -> Segmentation:
    """A segmentation on the grid of another, by the nearest voxel; itself where it is there already.

    Raises:
        ValueError: for grids of different shape without affines.
    """
    if same_grid(moving, fixed):
        return moving
    if moving.affine is None or fixed.affine is None:
        lacking = "neither has an" if moving.affine is None and fixed.affine is None else "one of them has no"
        raise ValueError(
            f"a segmentation of shape {moving.shape} must come onto a grid of shape {fixed.shape}, but {lacking} "
            "affine."
        )
    channels = moving.values if moving.masks else moving.values[None]
    volume = MetaTensor(as_plain(channels).float(), affine=moving.affine)
    resample = SpatialResample(mode="nearest", padding_mode="zeros", dtype="float32")
    moved = as_plain(resample(volume, dst_affine=fixed.affine, spatial_size=fixed.shape)).round().to(moving.values)
    return Segmentation(moved if moving.masks else moved[0], moving.masks, fixed.affine)
