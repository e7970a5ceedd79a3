# SPDX-License-Identifier: Apache-2.0
"""Spikes in k-space: plane waves over the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.acquisition.k_space import BoundKSpaceBlock
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundSpikeArtifact", "SpikeArtifact"]

FREQUENCIES = ((0.125, 0.0, 0.0), (0.0, 0.125, 0.0), (0.125, 0.125, 0.0), (0.25, -0.125, 0.0625))


class SpikeArtifact(AcquisitionBlock):
    """Plane waves of given frequencies, whose amplitudes and phases are attacked.

    >>> from monai_adversarial.attacks import Attack, SpikeArtifact
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(SpikeArtifact(0.1), "dice", steps=3)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice), result.budgets["spike_amplitude"].units
    (True, 'of the range of the image')

    Args:
        max_amplitude: largest amplitude of a wave's cosine and sine part each, as a share of the range from the 1st to
            the 99th percentile of each sample and channel.
        frequencies: of the waves, in cycles per voxel along each axis, from -0.5 to 0.5. Of longer ones than the image
            has axes the first numbers count.

    Raises:
        ValueError: for a number out of range, or no frequency.

    Survey entry: A15 (own).

    Source: the physics of spike noise, as TorchIO's random spike; the attacked form is ours.
    """

    budget_attributes = ("max_amplitude",)

    def __init__(self, max_amplitude: float = 0.05, frequencies: Sequence[Sequence[float]] = FREQUENCIES) -> None:
        self.max_amplitude = check_positive("max_amplitude", max_amplitude, allow_zero=True)
        self.frequencies = tuple(tuple(float(number) for number in one) for one in frequencies)
        if not self.frequencies:
            raise ValueError("frequencies must hold at least one frequency, got none.")
        if not all(abs(number) <= 0.5 for one in self.frequencies for number in one):
            raise ValueError("frequencies must be from -0.5 to 0.5 cycles per voxel along each axis, got larger ones.")

    def bind(self, scene: Scene) -> BoundSpikeArtifact:
        """Tie the waves to a batch; ValueError for frequencies with fewer numbers than the image has axes."""
        return BoundSpikeArtifact(self, scene)


class BoundSpikeArtifact(BoundKSpaceBlock):
    """Amplitudes of cosine and sine, (batch, waves, 2)."""

    def __init__(self, block: SpikeArtifact, scene: Scene) -> None:
        limit, count = block.max_amplitude, len(block.frequencies)
        units = "of the range of the image"
        super().__init__(scene, (Variable("spike_amplitude", units, (count, 2), -limit, limit),))
        dimensions = len(scene.spatial_shape)
        if any(len(one) < dimensions for one in block.frequencies):
            raise ValueError(f"frequencies must give {dimensions} numbers each for this image.")
        turns = torch.zeros(count, *[1] * dimensions, dtype=torch.float64)
        for axis, length in enumerate(scene.spatial_shape):
            shape = [1] * dimensions
            shape[axis] = length
            along = torch.tensor([one[axis] for one in block.frequencies], dtype=torch.float64)[:, None]
            turns = turns + (along * torch.arange(length, dtype=torch.float64)).view(count, *shape)
        angle = (2 * math.pi * turns).to(scene.image)[None]
        self.cosine, self.sine = angle.cos(), angle.sin()
        self.range = scene.percentile_range

    def change_of_signal(self, signal: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The waves."""
        cosine, sine = (part.reshape(*part.shape, *[1] * (signal.ndim - 2)) for part in parameters[0].unbind(dim=2))
        waves = (cosine * self.cosine + sine * self.sine).sum(dim=1, keepdim=True)
        return waves * self.range
