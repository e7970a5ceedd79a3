# SPDX-License-Identifier: Apache-2.0
"""Thicker slices."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, BoundAcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.acquisition.plane import slices_required
from monai_adversarial.attacks.perturbations.base import Parameters, per_sample
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundSliceThickness", "SliceThickness"]


class SliceThickness(AcquisitionBlock):
    """Slices that average over more mm than they lie apart: a box across slices, at the same positions.

    >>> from monai_adversarial.attacks import Attack, SliceThickness
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()  # slices of 3 mm
    >>> result = Attack(SliceThickness(max_thickness=5.0), "dice", steps=2)(model, image, label)
    >>> result.budgets["added_thickness"].limit.tolist()
    [2.0]

    Args:
        max_thickness: of a slice in mm, which ``scaled`` multiplies. The slices of the image are taken to be as thick
            as they lie apart; where that is more already, nothing is added.
        axial_axis: spatial axis across slices.

    Raises:
        ValueError: for a thickness that is not positive.

    Survey entry: A15 (own).

    Source: our own; a box is the slice profile of an ideal detector row (textbook).
    """

    budget_attributes = ("max_thickness",)

    def __init__(self, max_thickness: float = 5.0, axial_axis: int = -1) -> None:
        self.max_thickness = check_positive("max_thickness", max_thickness, allow_zero=True)
        self.axial_axis = axial_axis

    def bind(self, scene: Scene) -> BoundSliceThickness:
        """Tie the thickness to a batch; ValueError for images of one slice, or where the spacing is not known."""
        return BoundSliceThickness(self, scene)


class BoundSliceThickness(BoundAcquisitionBlock):
    """Thickness in mm beyond the distance of slices, (batch, 1)."""

    def __init__(self, block: SliceThickness, scene: Scene) -> None:
        self.axis = slices_required(scene, block.axial_axis, "slice thickness")
        distance = scene.require_spacing("slice thickness")[:, self.axis]
        largest = (block.max_thickness - distance).clamp_min(0)
        super().__init__(scene, (Variable("added_thickness", "mm", (1,), 0.0, largest),))
        self.distance = distance.to(scene.image)
        # A box of this width reaches so many slices on either side.
        self.reach = math.ceil(float((largest / distance).max()) / 2)

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        length = image.shape[2 + self.axis]
        width = 1 + parameters[0][:, 0] / self.distance  # in slices
        index = torch.arange(length, device=image.device)
        # Where no slice may become thicker there is still a gradient, of zero.
        difference = torch.zeros_like(image) + per_sample(0.0 * parameters[0], image)
        for offset in range(1, self.reach + 1):
            # The part of the box beyond the middle of the gap before this neighbor, at most all of the neighbor.
            covered = (0.5 * width - (offset - 0.5)).clamp(0, 1)
            share = (covered / width).view(-1, *[1] * (image.ndim - 1))
            for step in (-offset, offset):
                neighbor = image.index_select(2 + self.axis, (index + step).clamp(0, length - 1))
                difference = difference + share * (neighbor - image)
        return difference
