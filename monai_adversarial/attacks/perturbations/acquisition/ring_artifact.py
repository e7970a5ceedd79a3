# SPDX-License-Identifier: Apache-2.0
"""Rings: detector elements that measure too much or too little."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, BoundAcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.acquisition.cupping import largest_radius, radius_in_plane
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["BoundRingArtifact", "RingArtifact"]


class RingArtifact(AcquisitionBlock):
    """Rings about the center of each slice, each of its own height in HU, the same in all slices.

    >>> from monai_adversarial.attacks import Attack, RingArtifact
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(RingArtifact(20, rings=6, width=4.0), "dice", steps=3)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        max_height: largest height of a ring in HU.
        rings: their number; their radii are evenly spaced over the largest circle in the slice.
        width: of a ring in mm, at half of its height.
        axial_axis: spatial axis across slices.

    Raises:
        ValueError: for a number out of range.

    Survey entry: A15 (own).

    Source: our own, after the rings of miscalibrated detector elements (textbook).
    """

    budget_attributes = ("max_height",)
    units = "HU"

    def __init__(self, max_height: float = 20.0, rings: int = 16, width: float = 1.5, axial_axis: int = -1) -> None:
        self.max_height = check_positive("max_height", max_height, allow_zero=True)
        self.rings = check_count("rings", rings)
        self.width = check_positive("width", width)
        self.axial_axis = axial_axis

    def bind(self, scene: Scene) -> BoundRingArtifact:
        """Tie the rings to a batch; ValueError where HU or the spacing is not known."""
        return BoundRingArtifact(self, scene)


class BoundRingArtifact(BoundAcquisitionBlock):
    """Height of each ring in HU, from the innermost one, (batch, rings)."""

    def __init__(self, block: RingArtifact, scene: Scene) -> None:
        limit = block.max_height
        super().__init__(scene, (Variable("ring_height", "HU", (block.rings,), -limit, limit),))
        self.unit = scene.in_image_units(1.0, "HU")
        distance = radius_in_plane(scene, block.axial_axis, "the radius of a ring")
        largest = largest_radius(scene, block.axial_axis, "the radius of a ring")
        share = (torch.arange(block.rings, dtype=distance.dtype, device=distance.device) + 0.5) / block.rings
        radii = (largest[:, None] * share).view(-1, block.rings, *[1] * (distance.ndim - 2))
        self.profiles = (1 - (distance - radii).abs() / block.width).clamp_min(0)

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        heights = parameters[0].view(*parameters[0].shape, *[1] * (image.ndim - 2))
        return ((heights * self.profiles).sum(dim=1, keepdim=True) * self.unit).expand_as(image)
