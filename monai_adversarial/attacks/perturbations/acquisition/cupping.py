# SPDX-License-Identifier: Apache-2.0
"""Cupping: a body that is darker inside, from beam hardening."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, BoundAcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.acquisition.plane import in_plane_axes, positions
from monai_adversarial.attacks.perturbations.base import Parameters, per_sample
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundCupping", "Cupping", "largest_radius", "radius_in_plane"]


def radius_in_plane(scene: Scene, axial_axis: int, what: str) -> torch.Tensor:
    """Distance of each voxel of a slice from its center in mm, (batch, 1, spatial... with 1 across slices)."""
    first, second = in_plane_axes(scene, axial_axis)
    return (positions(scene, first, what).square() + positions(scene, second, what).square()).sqrt()


def largest_radius(scene: Scene, axial_axis: int, what: str) -> torch.Tensor:
    """Radius in mm of the largest circle in a slice, (batch,)."""
    spacing = scene.require_spacing(what)
    sides = [scene.spatial_shape[axis] * spacing[:, axis] for axis in in_plane_axes(scene, axial_axis)]
    return (torch.minimum(*sides) / 2).to(scene.image)


class Cupping(AcquisitionBlock):
    """Adds ``depth * (1 - r**2 / radius**2)`` HU within a circle about the center of each slice.

    >>> from monai_adversarial.attacks import Attack, Cupping
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(Cupping(10), "dice", steps=3)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        max_depth: largest change at the center in HU; negative values of the variable are cupping, positive ones what
            an exaggerated correction leaves.
        radius: in mm, beyond which nothing changes; None for the largest circle in the slice.
        axial_axis: spatial axis across slices.

    Raises:
        ValueError: for a number out of range.

    Survey entry: A15 (own).

    Source: our own; the paraboloid is the first term of a beam-hardened cylinder (textbook).
    """

    budget_attributes = ("max_depth",)
    units = "HU"

    def __init__(self, max_depth: float = 30.0, radius: float | None = None, axial_axis: int = -1) -> None:
        self.max_depth = check_positive("max_depth", max_depth, allow_zero=True)
        self.radius = None if radius is None else check_positive("radius", radius)
        self.axial_axis = axial_axis

    def bind(self, scene: Scene) -> BoundCupping:
        """Tie the circle to a batch; ValueError where HU or the spacing is not known."""
        return BoundCupping(self, scene)


class BoundCupping(BoundAcquisitionBlock):
    """Change at the center in HU, (batch, 1)."""

    def __init__(self, block: Cupping, scene: Scene) -> None:
        super().__init__(scene, (Variable("cupping", "HU", (1,), -block.max_depth, block.max_depth),))
        self.unit = scene.in_image_units(1.0, "HU")
        distance = radius_in_plane(scene, block.axial_axis, "the radius of cupping")
        radius = largest_radius(scene, block.axial_axis, "the radius of cupping")
        if block.radius is not None:
            radius = torch.full_like(radius, block.radius)
        self.shape = (1 - (distance / per_sample(radius, distance)).square()).clamp_min(0)

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        return (per_sample(parameters[0], image) * self.unit * self.shape).expand_as(image)
