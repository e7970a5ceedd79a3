# SPDX-License-Identifier: Apache-2.0
"""What an objective may know of the clean batch before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["CleanBatch"]


@dataclass(frozen=True)
class CleanBatch:
    """A clean batch and what the network says of it.

    >>> from monai_adversarial.attacks import PGD, EraseOrgan
    >>> from monai_adversarial.data.example import example_case
    >>> class Told(EraseOrgan):
    ...     def prepare(self, target, clean):
    ...         print(clean.activation, clean.prediction.shape, f"{float(clean.voxel_ml('a volume')[0]):.3f} ml")
    ...         return super().prepare(target, clean)
    >>> result = PGD(16, "HU", steps=1, objective=Told(3))(*example_case(16))
    softmax torch.Size([1, 1, 16, 16, 16]) 0.216 ml

    Args:
        image: (batch, channel, spatial...), in image units.
        prediction: the network's segmentation, class map (batch, 1, spatial...) or, with sigmoid, masks (batch, class,
            spatial...).
        activation: ``"softmax"`` or ``"sigmoid"``.
        spacing: (batch, spatial dimensions) in mm on the CPU, NaN where it is not known, or None.
        segment: segments another batch, at the cost of one forward pass.
    """

    image: torch.Tensor
    prediction: torch.Tensor
    activation: str
    spacing: torch.Tensor | None
    segment: Callable[[torch.Tensor], torch.Tensor]

    def mm(self, what: str) -> torch.Tensor:
        """The spacing, (batch, spatial dimensions) in mm.

        Args:
            what: who needs it, for the error.

        Raises:
            ValueError: where it is not known.
        """
        if self.spacing is None or not bool(torch.isfinite(self.spacing).all()):
            raise ValueError(
                f"spacing is missing: {what} needs the size of a voxel, so pass a MetaTensor with an affine or "
                "spacing=(mm along each axis)."
            )
        return self.spacing

    def voxel_ml(self, what: str) -> torch.Tensor:
        """Volume of one voxel in ml, (batch,), on the image's device and in its type.

        Raises:
            ValueError: for images that are not 3D, and where the spacing is not known.
        """
        table = self.mm(what)
        if table.shape[1] != 3:
            raise ValueError(f"{what} counts ml, so the image must have 3 spatial dimensions, got {table.shape[1]}.")
        return (table.prod(dim=1) / 1000).to(self.image)
