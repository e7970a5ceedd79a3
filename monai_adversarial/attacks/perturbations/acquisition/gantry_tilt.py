# SPDX-License-Identifier: Apache-2.0
"""A tilted gantry whose slices are stacked as if it were not."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.perturbations.acquisition.plane import in_plane_axes, positions, slices_required
from monai_adversarial.attacks.perturbations.base import Measurement, Parameters, Perturbation
from monai_adversarial.attacks.perturbations.geometric import BoundGeometric, intensity_changes, unexplained_change
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundGantryTilt", "GantryTilt"]


class GantryTilt(Perturbation):
    """Shifts each slice by ``tan(angle)`` times its distance from the middle one. Anatomy moves, and labels with it.

    >>> from monai_adversarial.attacks import Attack, GantryTilt
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(GantryTilt(15), "dice", steps=3)(model, image, label)
    >>> bool((result.label != label).any()), result.budgets["tilt"].units
    (True, 'degrees')

    Args:
        max_angle: largest tilt in degrees, below 45.
        axial_axis: spatial axis across slices. Slices move along the second of the other two, which is front to back in
            the orientations RAS and LPS.

    Raises:
        ValueError: for an angle out of range.

    Survey entry: A15 (own).

    Source: our own; the shear of slices that a tilted gantry makes (textbook).
    """

    budget_attributes = ("max_angle",)
    extremes_are = "ends"

    def __init__(self, max_angle: float = 3.0, axial_axis: int = -1) -> None:
        self.max_angle = check_positive("max_angle", max_angle, allow_zero=True)
        if self.max_angle >= 45:
            raise ValueError(f"max_angle must be below 45 degrees, got {max_angle}.")
        self.axial_axis = axial_axis

    def bind(self, scene: Scene) -> BoundGantryTilt:
        """Tie the tilt to a batch.

        Raises:
            ValueError: for images of one slice, a missing spacing, or a region, since every voxel moves.
        """
        return BoundGantryTilt(self, scene)


class BoundGantryTilt(BoundGeometric):
    """Tilt in degrees, (batch, 1)."""

    def __init__(self, block: GantryTilt, scene: Scene) -> None:
        super().__init__(scene)
        if scene.region is not None:
            raise ValueError("region must be None for a GantryTilt, which moves every voxel.")
        across = slices_required(scene, block.axial_axis, "gantry tilt")
        self.limit = block.max_angle
        self.axis = in_plane_axes(scene, block.axial_axis)[1]
        self.distance = positions(scene, across, "gantry tilt")
        self._spacing = scene.require_spacing("gantry tilt").to(scene.image)

    @property
    def spacing(self) -> torch.Tensor:
        """Voxel spacing in mm, (batch, dimension)."""
        return self._spacing

    @property
    def radii(self) -> Parameters:
        """The largest tilt."""
        return (self.scene.image.new_full((1, 1), self.limit),)

    def zeros(self) -> Parameters:
        """No tilt."""
        return (self.scene.image.new_zeros(self.scene.batch, 1),)

    def extremes(self) -> tuple[Parameters, ...]:
        """The largest tilt to either side."""
        farthest = self.radii[0].expand_as(self.zeros()[0])
        return (-farthest,), (farthest,)

    def displacement(self, parameters: Parameters, inverse: bool = False) -> torch.Tensor:
        """The displacement in voxels, (batch, dimension, spatial...)."""
        slope = torch.tan(parameters[0] * (math.pi / 180)) / self.spacing[:, self.axis, None]
        shift = slope.view(-1, *[1] * (self.distance.ndim - 1)) * (-self.distance if inverse else self.distance)
        shift = shift.expand(-1, -1, *self.scene.spatial_shape)
        nothing = torch.zeros_like(shift)
        dimensions = len(self.scene.spatial_shape)
        return torch.cat([shift if axis == self.axis else nothing for axis in range(dimensions)], dim=1)

    def measure_parameters(self, parameters: Parameters) -> dict[str, Measurement]:
        """The tilt, and the longest way of a voxel in mm."""
        with torch.no_grad():
            longest = self.longest_displacement(parameters)
        return {
            "tilt": Measurement(parameters[0].detach().abs()[:, 0], "degrees", self.limit),
            "displacement_euclidean": Measurement(longest, "mm"),
        }

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """The tilt against its limit, and whether it explains the finished image."""
        expected = self.finished(image, parameters)
        return {
            **self.measure_parameters(parameters),
            "unexplained_change": unexplained_change(self.scene, image, adversarial, expected, rounding),
            **intensity_changes(self.scene, image, adversarial),
        }
