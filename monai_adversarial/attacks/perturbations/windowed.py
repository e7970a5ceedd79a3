# SPDX-License-Identifier: Apache-2.0
"""What perturbations of the content of an intensity window have in common."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.attacks.perturbations.rounding import Limits
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.shown_window import shown_window

__all__ = ["BoundWindowed"]


class BoundWindowed(BoundPerturbation):
    """Changes what the window shows and leaves voxels outside the window and at its edges alone.

    Args:
        scene: the clean batch.
        window: (low, high) in HU, see ``shown_window``.
    """

    def __init__(self, scene: Scene, window: Sequence[float] | None) -> None:
        super().__init__(scene)
        self.low, self.high = shown_window(scene, window)

    def inside_window(self, image: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
        """``changed`` clipped to the window, and ``image`` where nothing may change."""
        low, high = (torch.as_tensor(edge).to(image) for edge in (self.low, self.high))
        changed = torch.where(changed < low, low, torch.where(changed > high, high, changed))
        return torch.where(self.untouched(image), image, changed)

    def untouched(self, image: torch.Tensor) -> torch.Tensor:
        """Voxels at and outside the edges of the window, and outside the region."""
        outside = (image <= self.low) | (image >= self.high)
        return outside if self.scene.region is None else outside | ~self.scene.region

    def limits(self, clean: torch.Tensor) -> Limits:
        """Lowest and highest value of a finished voxel, besides those of the valid range."""
        return torch.as_tensor(self.low).to(clean), torch.as_tensor(self.high).to(clean)

    @torch.no_grad()
    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Values of the file's grid within the limits."""
        return self._rounded(image, adversarial, lambda clean, _: self.limits(clean))
