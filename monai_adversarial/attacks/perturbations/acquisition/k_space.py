# SPDX-License-Identifier: Apache-2.0
"""Artifacts of k-space in a magnitude image."""

from __future__ import annotations

from abc import abstractmethod

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import BoundAcquisitionBlock
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.intensity_map import IntensityMap
from monai_adversarial.utils.scene import Scene

__all__ = ["BoundKSpaceBlock", "along_axis", "check_phase_axis", "signed_lines"]


def check_phase_axis(scene: Scene, phase_axis: int) -> int:
    """The spatial axis along which lines of k-space follow each other, from 0.

    Raises:
        ValueError: for an axis that the image does not have.
    """
    dimensions = len(scene.spatial_shape)
    if not -dimensions <= phase_axis < dimensions:
        raise ValueError(f"phase_axis must be one of the {dimensions} spatial axes of the image, got {phase_axis}.")
    return phase_axis % dimensions


def signed_lines(length: int, device: torch.device) -> torch.Tensor:
    """Number of each line of k-space in the order of the Fourier transform: 0, 1, ..., -2, -1."""
    lines = torch.arange(length, device=device)
    return torch.where(lines < (length + 1) // 2, lines, lines - length)


def along_axis(values: torch.Tensor, axis: int, dimensions: int) -> torch.Tensor:
    """(batch, length) values of the lines, so that they broadcast over (batch, channel, spatial...)."""
    shape = [1] * dimensions
    shape[axis] = values.shape[-1]
    return values.view(-1, 1, *shape)


class BoundKSpaceBlock(BoundAcquisitionBlock):
    """A change of the complex image of which the magnitude is shown.

    The phase of the clean image is not known and taken to be zero. No signal is the raw value 0 where the intensity map
    is known or the image is raw, and otherwise each sample's and channel's lowest value.
    """

    @abstractmethod
    def change_of_signal(self, signal: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """What is added to the complex signal, real or complex; exactly zero for zero parameters."""

    def _no_signal(self, image: torch.Tensor) -> float | torch.Tensor:
        scene = self.scene
        if scene.image_units == "HU":
            return 0.0
        if scene.intensity is not None:
            nothing = torch.zeros_like(image.flatten(2)[:, :, :1])
            return scene.intensity(nothing.view(*image.shape[:2], *[1] * len(scene.spatial_shape)))
        return IntensityMap.like(scene.image.flatten(2).amin(dim=2), image)

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        signal = image - self._no_signal(image)
        # Half precision has no Fourier transform of all lengths.
        with torch.autocast(image.device.type, enabled=False):
            moved = signal + self.change_of_signal(signal, parameters)
        return moved.abs() - signal.abs()
