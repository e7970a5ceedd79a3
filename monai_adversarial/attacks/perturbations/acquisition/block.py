# SPDX-License-Identifier: Apache-2.0
"""One parameter of a scanner, or a few, as what an attack changes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Measurement, Parameters, Perturbation
from monai_adversarial.attacks.perturbations.geometric import intensity_changes, unexplained_change
from monai_adversarial.utils.scene import Scene

__all__ = ["AcquisitionBlock", "BoundAcquisitionBlock", "Variable"]

PADDING = -1500.0  # HU and below: outside the scanner's field of view


@dataclass(frozen=True)
class Variable:
    """What is attacked, in physical units; zero is the clean image.

    >>> import torch
    >>> from monai_adversarial.attacks.perturbations.acquisition import Variable
    >>> dose = Variable("tube_current", "mA", (1,), lowest=-100.0, highest=0.0)
    >>> measured = dose.measure(torch.tensor([[-120.0]]))
    >>> measured["tube_current"].exceeded(), measured["lowest_tube_current"].exceeded()
    ([], [0])

    Args:
        name: of the measurement.
        units: for example ``"HU"``, ``"mm"``, ``"degrees"``.
        shape: of one sample's values.
        lowest: 0 or below; one number, or (batch,) where samples differ.
        highest: 0 or above; likewise.
    """

    name: str
    units: str
    shape: tuple[int, ...]
    lowest: float | torch.Tensor
    highest: float | torch.Tensor

    def edges(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``lowest`` and ``highest``, (1 or batch, 1...)."""
        low, high = (
            torch.as_tensor(edge, dtype=like.dtype, device=like.device).reshape(-1, *([1] * len(self.shape)))
            for edge in (self.lowest, self.highest)
        )
        return low, high

    def measure(self, values: torch.Tensor) -> dict[str, Measurement]:
        """The values of each sample, (batch, shape...), against the range."""
        low, high = (edge.flatten().expand(values.shape[0]) for edge in self.edges(values))
        flat = values.detach().flatten(1)
        if bool((low == -high).all()):
            return {self.name: Measurement(flat.abs().amax(dim=1), self.units, high)}
        return {
            self.name: Measurement(flat.amax(dim=1), self.units, high),
            f"lowest_{self.name}": Measurement(flat.amin(dim=1), self.units, low, at_least=True),
        }


class AcquisitionBlock(Perturbation):
    """A step of how an image is acquired or reconstructed; usable alone, in a ``Chain`` and in an ``Acquisition``.

    >>> from monai_adversarial.attacks import Attack
    >>> from monai_adversarial.attacks.perturbations import acquisition
    >>> from monai_adversarial.data.example import example_case
    >>> class BoundOffset(acquisition.BoundAcquisitionBlock):
    ...     def change(self, image, parameters):
    ...         return parameters[0].view(-1, 1, 1, 1, 1).expand_as(image)
    >>> class Offset(acquisition.AcquisitionBlock):
    ...     def bind(self, scene):
    ...         return BoundOffset(scene, [acquisition.Variable("offset", "HU", (1,), -12.0, 12.0)])
    >>> result = Attack(Offset(), steps=3)(*example_case(16))
    >>> found = result.budgets["offset"]
    >>> bool(result.adversarial_dice < result.clean_dice), float(found.values) <= 12, found.units
    (True, True, 'HU')
    """

    extremes_are = "ends"

    @abstractmethod
    def bind(self, scene: Scene) -> BoundAcquisitionBlock:
        """Tie the block to a batch; raises ValueError when the scene lacks what its units need."""


class BoundAcquisitionBlock(BoundPerturbation):
    """A block on one batch: a change that is added, a function of variables in a range each.

    Voxels of -1500 HU and below, outside the scanner's field of view, keep their bits. So do voxels of an image in
    network values whose HU nobody knows, because the intensity window has clipped them or the pipeline holds them.

    >>> from monai_adversarial.attacks import Attack, Cupping
    >>> from monai_adversarial.data.example import example_case
    >>> result = Attack(Cupping(10), steps=2)(*example_case(16))
    >>> [variable.name for variable in result.bound.variables]
    ['cupping']
    >>> bool((result.bound.change(result.image, result.bound.zeros()) == 0).all())
    True

    Args:
        scene: the clean batch.
        variables: what is attacked, in the order of the parameters.
    """

    follows_voxels = False

    def __init__(self, scene: Scene, variables: Sequence[Variable]) -> None:
        super().__init__(scene)
        self.variables = tuple(variables)
        self.edges = tuple(variable.edges(scene.image) for variable in self.variables)

    @abstractmethod
    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """What is added to the image, in its units; exactly zero for zero parameters."""

    @property
    def radii(self) -> Parameters:
        """The wider side of each range."""
        return tuple(torch.maximum(-low, high) for low, high in self.edges)

    def zeros(self) -> Parameters:
        """The scan as it was made."""
        image = self.scene.image
        return tuple(image.new_zeros(self.scene.batch, *variable.shape) for variable in self.variables)

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """Uniform from the lowest to the highest value."""
        draws = self.zeros()
        for draw in draws:
            for sample, generator in zip(draw, generators, strict=True):
                sample.uniform_(0.0, 1.0, generator=generator)
        made = tuple(low + (high - low) * draw for draw, (low, high) in zip(draws, self.edges, strict=True))
        return self.project(made)

    def extremes(self) -> tuple[Parameters, ...]:
        """Either end of each variable of one number, the others being as the scan was made: more or less of it are two
        ways, of which the start decides one."""
        found = []
        for index, (variable, edges) in enumerate(zip(self.variables, self.edges, strict=True)):
            for edge in edges:
                if variable.shape == (1,) and bool((edge != 0).any()):
                    ends = list(self.zeros())
                    ends[index] = edge.expand_as(ends[index])
                    found.append(tuple(ends))
        return tuple(found)

    def project(self, parameters: Parameters) -> Parameters:
        """Each value in its range."""
        return tuple(
            torch.maximum(torch.minimum(parameter, high), low)
            for parameter, (low, high) in zip(parameters, self.edges, strict=True)
        )

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The image as it would have been acquired."""
        changed = self.into_range(image + self.change(image, parameters), image)
        untouched = self.untouched(image)
        return changed if untouched is None else torch.where(untouched, image, changed)

    def untouched(self, image: torch.Tensor) -> torch.Tensor | None:
        """Voxels outside the field of view or the region, and those whose HU are not known."""
        scene = self.scene
        outside: torch.Tensor | None = None
        if scene.image_units == "HU":
            outside = image <= PADDING
        elif scene.intensity is not None:
            outside = ~scene.intensity.reachable(image)
        if scene.region is None:
            return outside
        return ~scene.region if outside is None else outside | ~scene.region

    def measure_parameters(self, parameters: Parameters) -> dict[str, Measurement]:
        """Each variable against its range."""
        found: dict[str, Measurement] = {}
        for variable, values in zip(self.variables, parameters, strict=True):
            found |= variable.measure(values)
        return found

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Each variable against its range, whether they explain the finished image, and the change in HU."""
        expected = self.finished(image, parameters)
        return {
            **self.measure_parameters(parameters),
            "unexplained_change": unexplained_change(self.scene, image, adversarial, expected, 2 * rounding),
            **intensity_changes(self.scene, image, adversarial),
        }
