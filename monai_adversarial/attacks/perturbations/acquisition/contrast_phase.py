# SPDX-License-Identifier: Apache-2.0
"""Another phase of the contrast agent: organs that are brighter or darker."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, BoundAcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundContrastPhase", "ContrastPhase"]


class ContrastPhase(AcquisitionBlock):
    """Adds HU to whole organs, each its own amount, as another phase of the contrast agent would.

    >>> import torch
    >>> from monai_adversarial.attacks import Attack, ContrastPhase
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> organs = torch.cat([label == 1, label == 2], dim=1)  # gallbladder and liver
    >>> result = Attack(ContrastPhase(organs, max_change=15), "dice", steps=3)(model, image, label)
    >>> result.parameters[0].shape, bool(result.adversarial_dice < result.clean_dice)
    (torch.Size([1, 2]), True)

    Args:
        masks: (organ, spatial...) for all samples of a batch, or (batch, organ, spatial...): booleans, or shares of a
            voxel from 0 to 1.
        max_change: largest change of an organ in HU.

    Raises:
        ValueError: for masks out of range or empty, and, when an image is known, on another grid.

    Survey entry: A15 (own).

    Source: our own.
    """

    budget_attributes = ("max_change",)
    units = "HU"

    def __init__(self, masks: Any, max_change: float = 40.0) -> None:
        self.max_change = check_positive("max_change", max_change, allow_zero=True)
        self.masks = as_plain(as_tensor("masks", masks)).float()
        if self.masks.ndim < 3:
            raise ValueError(
                f"masks must be (organ, spatial...), or with a batch in front, got {self.masks.ndim} axes."
            )
        if not bool(((self.masks >= 0) & (self.masks <= 1)).all()):
            raise ValueError("masks must hold booleans or shares from 0 to 1, got other numbers.")

    def bind(self, scene: Scene) -> BoundContrastPhase:
        """Tie the organs to a batch; ValueError where HU are not known or a mask is not on the image's grid."""
        return BoundContrastPhase(self, scene)


class BoundContrastPhase(BoundAcquisitionBlock):
    """Change of each organ in HU, (batch, organs)."""

    def __init__(self, block: ContrastPhase, scene: Scene) -> None:
        masks = block.masks.to(scene.image)
        dimensions = len(scene.spatial_shape)
        masks = masks[None] if masks.ndim == dimensions + 1 else masks
        if tuple(masks.shape[2:]) != scene.spatial_shape or masks.shape[0] not in (1, scene.batch):
            raise ValueError(
                f"masks must be (organ, {', '.join(map(str, scene.spatial_shape))}), or with a batch of "
                f"{scene.batch} in front, as the image is; got shape {tuple(block.masks.shape)}."
            )
        empty = (~(masks > 0).flatten(2).any(dim=2)).nonzero().tolist()
        if empty:
            raise ValueError(f"masks must have a voxel of every organ, but organ {empty[0][1]} is empty.")
        limit = block.max_change
        super().__init__(scene, (Variable("organ_change", "HU", (masks.shape[1],), -limit, limit),))
        self.masks, self.unit = masks, scene.in_image_units(1.0, "HU")

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        amounts = parameters[0].view(*parameters[0].shape, *[1] * (image.ndim - 2))
        return ((amounts * self.masks).sum(dim=1, keepdim=True) * self.unit).expand_as(image)
