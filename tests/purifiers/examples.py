# SPDX-License-Identifier: Apache-2.0
"""Purifiers whose every effect has a closed form, and images for the others."""

from __future__ import annotations

import torch

from monai_adversarial.purifiers.base import Purifier, RandomPurifier
from monai_adversarial.purifiers.context import ImageContext


class Doubled(Purifier):
    """Twice the image; differentiable."""

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        return 2.0 * image


class Rounded(Purifier):
    """Whole multiples of ``step``, attacked straight through."""

    gradient = "straight_through"

    def __init__(self, step: float = 0.1) -> None:
        super().__init__()
        self.step = step

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        return (image / self.step).round() * self.step


class TripledInSecret(Purifier):
    """Three times the image, rounded; its surrogate is three times the image."""

    gradient = "surrogate"

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        return (3.0 * image).round()

    def surrogate(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        return 3.0 * image


class RandomGain(RandomPurifier):
    """Multiplies each sample by its own draw from 0 to 2."""

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        return image * self.gains(image, context).view(-1, *([1] * (image.ndim - 1)))

    @staticmethod
    def gains(image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """The draws, (batch,)."""
        generators = context.generators(image.device, image.shape[0])
        return torch.cat([2.0 * torch.rand(1, generator=g, device=image.device) for g in generators]).to(image)


def noisy_step(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Noise of 10 HU around 40 HU, and -1000 HU in the first half of the last axis."""
    generator = torch.Generator().manual_seed(seed)
    image = 40.0 + 10.0 * torch.randn(shape, generator=generator, dtype=dtype)
    image[..., : shape[-1] // 2] -= 1040.0
    return image


def spaced(*spacings: tuple[float, ...]) -> ImageContext:
    return ImageContext(torch.tensor(spacings, dtype=torch.float64))
