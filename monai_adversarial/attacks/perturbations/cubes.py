# SPDX-License-Identifier: Apache-2.0
"""A few voxels, or small cubes of voxels, set to any value."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import (
    BoundPerturbation,
    Measurement,
    Parameters,
    Perturbation,
)
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise, MinimalNoise
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_count

__all__ = ["BoundCubes", "Cubes"]


class Cubes(Perturbation):
    """``count`` cubes of ``edge`` voxels, each at a place and with a value of its own; everything else stays.

    A value from -1 to 1 goes from the clean voxel to the lowest or highest value that the network tells apart, or to
    ``epsilon`` below or above the clean voxel.

    >>> from monai_adversarial.attacks import Cubes
    >>> Cubes(3, edge=2)
    Cubes(count=3, edge=2, epsilon=None, units='network')

    Args:
        count: number of cubes.
        edge: voxels along each axis of a cube; 1 for single voxels.
        epsilon: largest change of a voxel, in ``units``; None for the whole range of values.
        units: of epsilon; see :class:`~monai_adversarial.attacks.AdditiveNoise`.

    Raises:
        ValueError: for an argument out of range.

    Source: Su, Vargas, Sakurai, "One pixel attack for fooling deep neural networks", 2019; cubes are ours.
    """

    def __init__(self, count: int = 1, edge: int = 1, epsilon: float | None = None, units: str = "network") -> None:
        self.count, self.edge = check_count("count", count), check_count("edge", edge)
        self.values = MinimalNoise("linf", epsilon, units)
        self.units = units

    def bind(self, scene: Scene) -> BoundCubes:
        """Tie the cubes to a batch.

        Raises:
            ValueError: for cubes that are larger than the image.
        """
        if min(scene.spatial_shape, default=0) < self.edge:
            raise ValueError(
                f"edge must be at most the image's shortest axis of {min(scene.spatial_shape)} voxels, got {self.edge}."
            )
        return BoundCubes(self, scene)


class BoundCubes(BoundPerturbation):
    """Cubes on one batch; the parameter holds for each cube its place along each axis and its value for each channel,
    all from -1 to 1: (batch, count, axes + channels).

    >>> from monai_adversarial.attacks import OnePixel
    >>> from monai_adversarial.data.example import example_case
    >>> result = OnePixel(voxels=2, edge=3, units="HU", queries=20, population=8)(*example_case(16))
    >>> result.parameters[0].shape, bool(result.parameters[0].abs().max() <= 1)
    (torch.Size([1, 2, 4]), True)
    """

    def __init__(self, perturbation: Cubes, scene: Scene) -> None:
        super().__init__(scene)
        self.count, self.edge = perturbation.count, perturbation.edge
        self.noise: BoundMinimalNoise = perturbation.values.bind(scene)
        self.axes, self.channels = len(scene.spatial_shape), int(scene.image.shape[1])

    def zeros(self) -> Parameters:
        """Cubes in the middle that change nothing."""
        return (self.scene.image.new_zeros(self.scene.batch, self.count, self.axes + self.channels),)

    @property
    def radii(self) -> Parameters:
        """One."""
        return (torch.ones_like(self.zeros()[0]),)

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Set the cubes, one after the other: where two overlap the later one counts."""
        (cubes,) = parameters
        down, up = self.noise.room
        noise = torch.zeros_like(image)
        for number in range(self.count):
            value = cubes[:, number, self.axes :].view(-1, self.channels, *[1] * self.axes)
            change = torch.where(value < 0, -value * down, value * up)
            noise = torch.where(self._inside(cubes[:, number, : self.axes]), change, noise)
        return image + self.noise.project((noise,))[0]

    def _inside(self, place: torch.Tensor) -> torch.Tensor:
        """Boolean (batch, 1, spatial...): the voxels of a cube at a place (batch, axes), from -1 to 1 along each."""
        inside = torch.ones((1,) * (self.axes + 2), dtype=torch.bool, device=place.device)
        for axis, size in enumerate(self.scene.spatial_shape):
            starts = size - self.edge + 1
            start = ((place[:, axis] + 1) / 2 * starts).floor().clamp(0, starts - 1)[:, None]
            voxel = torch.arange(size, device=place.device)
            along = (voxel >= start) & (voxel < start + self.edge)
            inside = inside & along.view(-1, *[1] * (axis + 1), size, *[1] * (self.axes - axis - 1))
        return inside

    def untouched(self, image: torch.Tensor) -> torch.Tensor | None:
        """Voxels outside the region, the field of view and what the intensity window shows."""
        return self.noise.untouched(image)

    @torch.no_grad()
    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Values of the file's grid, not further from the clean image than epsilon."""
        return self.noise.quantize(image, adversarial, (adversarial - image,))

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Number of voxels that changed, and the largest change."""
        change = (adversarial.double() - image.double()).abs().amax(dim=1).flatten(1)
        found = self.noise.measure(image, adversarial, (adversarial - image,), rounding)
        limit = self.count * self.edge**self.axes
        return {"changed_voxels": Measurement((change > rounding).sum(dim=1), "voxels", limit), **found}
