# SPDX-License-Identifier: Apache-2.0
"""Noise of one size that repeats over the image: what a universal perturbation is made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.additive import AdditiveNoise
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Measurement, Parameters, Perturbation
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_count

__all__ = ["BoundTiledNoise", "TiledNoise"]


class TiledNoise(Perturbation):
    """A block of noise, repeated along every axis from the first voxel on, in an L-infinity ball.

    The block fits every image, whatever its size. Where an image allows less than the block (its range of values, its
    region), it gets less; the block itself keeps the budget alone.

    Args:
        epsilon: radius of the ball, in ``units``.
        units: see :class:`~monai_adversarial.attacks.AdditiveNoise`.
        size: voxels of the block along each axis; None for one block as large as the image.

    Raises:
        ValueError: for a negative epsilon, unknown units, sizes below 1, and, at an image, a size that does not have
            its number of axes or is larger than it.

    Example:
        >>> from monai_adversarial.attacks import Attack, TiledNoise
        >>> from monai_adversarial.data.example import example_case
        >>> result = Attack(TiledNoise(8, "HU", size=(8, 8, 8)))(*example_case())
        >>> change = result.adversarial - result.image
        >>> bool((change[..., :8, :8, :8] - change[..., 8:16, 8:16, 8:16]).abs().max() < 1e-4)  # rounding
        True
    """

    budget_attributes = ("epsilon",)

    def __init__(self, epsilon: float, units: str = "network", size: Sequence[int] | None = None) -> None:
        ball = AdditiveNoise(epsilon, "linf", units)
        self.epsilon, self.units = ball.epsilon, ball.units
        self.size = None if size is None else tuple(check_count("size", length) for length in size)

    def bind(self, scene: Scene) -> BoundTiledNoise:
        """Tie the block to a batch."""
        return BoundTiledNoise(self, scene)


class BoundTiledNoise(BoundPerturbation):
    """Tiled noise on one batch; the parameter is the block, (batch, channel, size...), in image units.

    >>> from monai_adversarial.attacks import Attack, TiledNoise
    >>> from monai_adversarial.data.example import example_case
    >>> result = Attack(TiledNoise(10, units="HU", size=(8, 8, 8)), steps=2)(*example_case(16))
    >>> tiled = result.bound.tiled(result.parameters)
    >>> bool((tiled[..., :8] == tiled[..., 8:]).all())
    True
    """

    def __init__(self, perturbation: TiledNoise, scene: Scene) -> None:
        super().__init__(scene)
        self.inner = AdditiveNoise(perturbation.epsilon, "linf", perturbation.units).bind(scene)
        shape = scene.spatial_shape
        self.size = shape if perturbation.size is None else perturbation.size
        if len(self.size) != len(shape) or any(own > whole for own, whole in zip(self.size, shape, strict=True)):
            raise ValueError(f"size must give at most {shape} voxels along the axes of the image, got {self.size}.")

    @property
    def radii(self) -> Parameters:
        """The ball's radius."""
        return self.inner.radii

    def zeros(self) -> Parameters:
        """No noise."""
        return (self.scene.image.new_zeros(*self.scene.image.shape[:2], *self.size),)

    def tiled(self, parameters: Parameters) -> torch.Tensor:
        """The block, repeated over the image, before the image limits it."""
        noise = parameters[0]
        for axis, (own, whole) in enumerate(zip(self.size, self.scene.spatial_shape, strict=True), start=2):
            if own < whole:
                noise = noise.index_select(axis, torch.arange(whole, device=noise.device) % own)
        return noise

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Add the block as far as the image allows it."""
        noise = self.tiled(parameters)
        # The projection works in place without a graph: not in the parameters themselves.
        return image + self.inner.project((noise if noise.requires_grad else noise.clone(),))[0]

    @property
    def support(self) -> torch.Tensor | None:
        """Voxels that may change."""
        return self.inner.support

    def untouched(self, image: torch.Tensor) -> torch.Tensor | None:
        """Voxels that the image does not let change."""
        return self.inner.untouched(image)

    @torch.no_grad()
    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Values of the file's grid in the ball."""
        return self.inner.quantize(image, adversarial, parameters)

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """The noise as of ``AdditiveNoise``, and whether the block explains the image."""
        explained = super().measure(image, adversarial, parameters, rounding)
        return {**self.inner.measure(image, adversarial, parameters, rounding), **explained}
