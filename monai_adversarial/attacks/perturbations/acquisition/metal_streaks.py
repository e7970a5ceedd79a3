# SPDX-License-Identifier: Apache-2.0
"""Streaks from a piece of metal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, BoundAcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.acquisition.plane import axial_axis_of, in_plane_axes, positions
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["BoundMetalStreaks", "MetalStreaks"]


class MetalStreaks(AcquisitionBlock):
    """Straight streaks through one point, bright or dark, that fade with the distance; the metal itself is not drawn.

    >>> from monai_adversarial.attacks import Attack, MetalStreaks
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> streaks = MetalStreaks(60, position=(0.0, 30.0, 0.0), width=4.0, extent=30.0)
    >>> result = Attack(streaks, "dice", steps=3)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        max_height: largest height of a streak in HU, at the metal.
        position: of the metal in mm from the center of the volume along each axis of the image.
        streaks: their number; their directions are evenly spaced over half a turn.
        width: standard deviation across a streak in mm.
        reach: distance in mm along a streak over which it falls to 1/e.
        extent: standard deviation across slices in mm.
        axial_axis: spatial axis across slices.

    Raises:
        ValueError: for a number out of range, or a position with another number of axes than the image.

    Survey entry: A15 (own).

    Source: our own basis, in image space: no projections are made.
    """

    budget_attributes = ("max_height",)
    units = "HU"

    def __init__(
        self,
        max_height: float = 100.0,
        position: Sequence[float] = (0.0, 0.0, 0.0),
        streaks: int = 8,
        width: float = 2.0,
        reach: float = 100.0,
        extent: float = 5.0,
        axial_axis: int = -1,
    ) -> None:
        self.max_height = check_positive("max_height", max_height, allow_zero=True)
        self.position = tuple(float(place) for place in position)
        if not all(math.isfinite(place) for place in self.position):
            raise ValueError(f"position must be finite, in mm from the center, got {self.position}.")
        self.streaks = check_count("streaks", streaks)
        self.width, self.reach = check_positive("width", width), check_positive("reach", reach)
        self.extent = check_positive("extent", extent)
        self.axial_axis = axial_axis

    def bind(self, scene: Scene) -> BoundMetalStreaks:
        """Tie the streaks to a batch; ValueError where HU or the spacing is not known."""
        return BoundMetalStreaks(self, scene)


class BoundMetalStreaks(BoundAcquisitionBlock):
    """Height of each streak in HU, (batch, streaks)."""

    def __init__(self, block: MetalStreaks, scene: Scene) -> None:
        limit = block.max_height
        super().__init__(scene, (Variable("streak_height", "HU", (block.streaks,), -limit, limit),))
        if len(block.position) != len(scene.spatial_shape):
            raise ValueError(
                f"position must give {len(scene.spatial_shape)} numbers in mm for this image, got {block.position}."
            )
        self.unit = scene.in_image_units(1.0, "HU")
        what = "the position of metal"
        first, second = in_plane_axes(scene, block.axial_axis)
        u = positions(scene, first, what) - block.position[first]
        v = positions(scene, second, what) - block.position[second]
        angles = torch.arange(block.streaks, dtype=torch.float64) * (math.pi / block.streaks)
        sine, cosine = (part.to(u).view(1, -1, *[1] * (u.ndim - 2)) for part in (angles.sin(), angles.cos()))
        along, across = u * cosine + v * sine, v * cosine - u * sine
        self.profiles = torch.exp(-0.5 * (across / block.width).square() - along.abs() / block.reach)
        axis = axial_axis_of(scene, block.axial_axis)
        self.fading = torch.ones_like(u[..., :1])
        if axis is not None:
            away = positions(scene, axis, what) - block.position[axis]
            self.fading = torch.exp(-0.5 * (away / block.extent).square())

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        heights = parameters[0].view(*parameters[0].shape, *[1] * (image.ndim - 2))
        in_plane = (heights * self.profiles).sum(dim=1, keepdim=True) * self.unit
        return (in_plane * self.fading).expand_as(image)
