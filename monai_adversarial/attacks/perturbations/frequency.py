# SPDX-License-Identifier: Apache-2.0
"""What perturbations of the coefficients of a blockwise discrete cosine transform have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.base import Measurement, Parameters
from monai_adversarial.attacks.perturbations.geometric import intensity_changes, unexplained_change
from monai_adversarial.attacks.perturbations.windowed import BoundWindowed
from monai_adversarial.metrics.structural_similarity import structural_similarity
from monai_adversarial.purifiers.discrete_cosine import blockwise_dct, pad_to_blocks
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.shown_window import window_share

__all__ = ["LEVELS", "BoundFrequency"]

#: levels of gray that the window has in the literature; coefficients and steps count in them
LEVELS = 255.0


class BoundFrequency(BoundWindowed):
    """Changes coefficients of the window's content.

    Only the change goes back through the inverse transform, so that no change of coefficients is none of voxels, to the
    last bit. Volumes that do not hold whole blocks continue with their border values, which are cut off again.

    Args:
        scene: the clean batch.
        block_size: voxels along each axis of a block.
        window: (low, high) in HU, see ``shown_window``.
        center: gray level that is taken off before the transform; it matters to the lowest coefficient alone.
    """

    def __init__(self, scene: Scene, block_size: int, window: Sequence[float] | None, center: float) -> None:
        super().__init__(scene, window)
        self.block = (block_size,) * len(scene.spatial_shape)
        self.padded_shape = tuple(n + -n % block_size for n in scene.spatial_shape)
        self.center = center

    @abstractmethod
    def change_of_coefficients(self, coefficients: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """What is added to the coefficients, (batch, channel, padded spatial...), in gray levels."""

    @abstractmethod
    def measure_parameters(self, parameters: Parameters) -> dict[str, Measurement]:
        """The budget."""

    def coefficients(self, image: torch.Tensor) -> torch.Tensor:
        """Of the image in the window, in gray levels, (batch, channel, padded spatial...)."""
        levels = LEVELS * window_share(image, self.low, self.high) - self.center
        return blockwise_dct(pad_to_blocks(levels, self.block), self.block)

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The image with other coefficients, clipped to the window."""
        change = self.change_of_coefficients(self.coefficients(image), parameters)
        inside = (slice(None), slice(None), *(slice(length) for length in image.shape[2:]))
        change = blockwise_dct(change, self.block, inverse=True)[inside]
        return self.inside_window(image, image + change * ((self.high - self.low) / LEVELS))

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """The parameters against their budget, whether they explain the image, and what was done to it: the largest and
        the root-mean-square change in HU and the SSIM in the window, which nothing limits."""
        with torch.no_grad():
            expected = self.finished(image, parameters)
            found = self.measure_parameters(parameters)
            found["unexplained_change"] = unexplained_change(self.scene, image, adversarial, expected, 2 * rounding)
            found |= intensity_changes(self.scene, image, adversarial)
            if image.ndim in (4, 5):
                shown, clean = (window_share(one.to(image), self.low, self.high) for one in (adversarial, image))
                found["ssim"] = Measurement(structural_similarity(shown, clean), "ratio")
        return found
