# SPDX-License-Identifier: Apache-2.0
"""Multiplicative noise on the coefficients of a blockwise discrete cosine transform."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.base import Measurement, Parameters, Perturbation
from monai_adversarial.attacks.perturbations.frequency import BoundFrequency
from monai_adversarial.purifiers.discrete_cosine import tile_blocks
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.shown_window import check_shown_window
from monai_adversarial.utils.validation import check_count, check_fraction, check_positive

__all__ = ["BoundSpectralNoise", "SpectralNoise"]


class SpectralNoise(Perturbation):
    """Multiplies each coefficient of a blockwise cosine transform by a factor from ``1 - rho`` to ``1 + rho``.

    Coefficients that the image does not have stay zero: the noise has the image's own texture. The change of a voxel
    has no bound of its own: its largest value, its root mean square and the SSIM are reported.

    >>> from monai_adversarial.attacks import Attack, SpectralNoise
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> low_frequencies = SpectralNoise(0.3, block_size=8, band=(0.0, 0.5))
    >>> result = Attack(low_frequencies, "dice", steps=3)(model, image, label)
    >>> result.budgets["change_of_coefficients"].limit
    0.3

    Args:
        rho: largest relative change of a coefficient, at most 1; 0 is the identity.
        block_size: voxels along each axis of a block.
        band: lowest and highest frequency that changes, each as a share of the highest of a block: the length of a
            coefficient's index divided by that of the last one, from 0 to 1.
        window: (low, high) in HU whose content is transformed; None for that of the intensity map, and each image's own
            range where none is known. Voxels outside keep their bits.

    Raises:
        ValueError: for a number out of range, or a band that is not low < high or holds no coefficient.

    Survey entry: X03 (reconstruction).

    Source: SA2, "spectrum adversarial attack" (ISBI 2025), whose figure and options were read, not its body: factors
    ``1 +- rho`` with rho 0.4 and blocks of 16 voxels are its own, how a band is counted is ours.
    """

    budget_attributes = ("rho",)

    def __init__(
        self,
        rho: float = 0.4,
        block_size: int = 16,
        band: Sequence[float] = (0.0, 1.0),
        window: Sequence[float] | None = None,
    ) -> None:
        self.rho = check_positive("rho", rho, allow_zero=True)
        if self.rho > 1:
            raise ValueError(f"rho must be at most 1, got {rho}.")
        self.block_size = check_count("block_size", block_size, minimum=2)
        if len(tuple(band)) != 2:
            raise ValueError(f"band must be (lowest, highest) as shares from 0 to 1, got {band!r}.")
        self.band = (check_fraction("band", band[0]), check_fraction("band", band[1]))
        if not self.band[0] < self.band[1]:
            raise ValueError(f"band must go from a lower to a higher share, got {self.band}.")
        self.window = check_shown_window(window)

    @property
    def units(self) -> str | None:
        """``"HU"`` where the window is given in HU."""
        return None if self.window is None else "HU"

    def bind(self, scene: Scene) -> BoundSpectralNoise:
        """Tie the noise to a batch.

        Raises:
            ValueError: where the window is not known, or a band without a coefficient.
        """
        return BoundSpectralNoise(self, scene)


class BoundSpectralNoise(BoundFrequency):
    """The relative change of each coefficient, (batch, channel, padded spatial...).

    >>> from monai_adversarial.attacks import SpectralAttack
    >>> from monai_adversarial.data.example import example_case
    >>> result = SpectralAttack(0.2, steps=2)(*example_case(16))
    >>> changes = result.parameters[0].abs()
    >>> bool(changes.max() <= 0.2001), bool((changes <= result.bound.radii[0]).all())
    (True, True)
    """

    def __init__(self, perturbation: SpectralNoise, scene: Scene) -> None:
        super().__init__(scene, perturbation.block_size, perturbation.window, center=0.0)
        self.rho = perturbation.rho
        index = torch.arange(perturbation.block_size, dtype=torch.float64) / (perturbation.block_size - 1)
        grid = torch.stack(torch.meshgrid([index] * len(self.block), indexing="ij"))
        frequency = grid.square().mean(dim=0).sqrt()
        low, high = perturbation.band
        chosen = (frequency >= low - 1e-9) & (frequency <= high + 1e-9)
        if not bool(chosen.any()):
            raise ValueError(f"band {perturbation.band} holds no coefficient of blocks of {self.block}: widen it.")
        self.band = tile_blocks(chosen.to(scene.image), self.padded_shape)

    @property
    def radii(self) -> Parameters:
        """The largest relative change, 0 outside the band."""
        return (self.rho * self.band[None, None],)

    def zeros(self) -> Parameters:
        """Factors of one."""
        return (self.scene.image.new_zeros(*self.scene.image.shape[:2], *self.padded_shape),)

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """The same relative changes with random signs."""
        (signs,) = self.zeros()
        for sample, generator in zip(signs, generators, strict=True):
            sample.uniform_(-1.0, 1.0, generator=generator).sign_()
        return (parameters[0].detach().abs() * signs,)

    def change_of_coefficients(self, coefficients: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """A share of each coefficient."""
        return coefficients * (parameters[0] * self.band)

    def measure_parameters(self, parameters: Parameters) -> dict[str, Measurement]:
        """The largest relative change."""
        largest = parameters[0].detach().abs().flatten(1).amax(dim=1)
        return {"change_of_coefficients": Measurement(largest, "fraction", self.rho)}
