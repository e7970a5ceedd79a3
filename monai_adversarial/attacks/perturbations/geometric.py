# SPDX-License-Identifier: Apache-2.0
"""What perturbations that move anatomy have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from monai_adversarial.attacks.perturbations.base import (
    REPEAT_TOLERANCE,
    BoundPerturbation,
    Measurement,
    Parameters,
)
from monai_adversarial.attacks.perturbations.warp import warp_class_map, warp_linear, warp_nearest
from monai_adversarial.utils.jacobian import jacobian_determinant, lowest_corner_determinant
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = [
    "NORMS",
    "BoundGeometric",
    "intensity_changes",
    "match_size",
    "per_axis",
    "shared_spacing",
    "unexplained_change",
]

#: how a displacement is measured: the length of its vector, or along each axis of the image by itself
NORMS = ("euclidean", "per_axis")


def per_axis(name: str, value: float | Sequence[float], count: int) -> tuple[float, ...]:
    """One number >= 0 per axis from one number for all or one for each."""
    if isinstance(value, (int, float)):
        return (check_positive(name, value, allow_zero=True),) * count
    values = tuple(check_positive(name, one, allow_zero=True) for one in value)
    if len(values) != count:
        raise ValueError(f"{name} must be one number or {count} numbers for this image, got {len(values)}.")
    return values


def shared_spacing(scene: Scene, what: str) -> tuple[float, ...]:
    """The spacing in mm that all samples of a batch have, or ValueError."""
    spacing = scene.require_spacing(what)
    if bool((spacing - spacing[:1]).abs().max() > 1e-3 * spacing.min()):
        raise ValueError(
            f"spacing must be the same for all samples of a batch: {what} puts one grid of controls in mm over them, "
            f"got {spacing.tolist()}; use a batch size of 1."
        )
    return tuple(float(s) for s in spacing[0])


def intensity_changes(scene: Scene, image: torch.Tensor, adversarial: torch.Tensor) -> dict[str, Measurement]:
    """Largest and root-mean-square change of a voxel in HU, where the relation to HU is known."""
    difference = adversarial.double() - image.double()
    if not scene.one_unit:
        changes = scene.in_hounsfield(difference)
        assert changes is not None
        difference, scene = changes, replace(scene, image_units="HU")
    difference = difference.flatten(1)
    found = {}
    amounts = {"largest_change": difference.abs().amax(dim=1), "rms_change": difference.square().mean(dim=1).sqrt()}
    for name, amount in amounts.items():
        in_hounsfield = scene.in_hounsfield(amount)
        if in_hounsfield is not None:
            found[name] = Measurement(in_hounsfield, "HU")
    return found


def unexplained_change(
    scene: Scene, image: torch.Tensor, adversarial: torch.Tensor, expected: torch.Tensor, rounding: float
) -> Measurement:
    """Largest difference of a finished image from what its parameters make of the clean one."""
    difference = (adversarial.double() - expected.double()).abs().flatten(1).amax(dim=1)
    tolerance = rounding + REPEAT_TOLERANCE * float(image.max() - image.min())
    return Measurement(difference, scene.image_units, 0.0, tolerance=tolerance)


def match_size(
    draw: Parameters,
    wanted: torch.Tensor,
    size: Callable[[Parameters], torch.Tensor],
    project: Callable[[Parameters], Parameters],
    rounds: int = 4,
) -> Parameters:
    """Scale a random draw until its size is the one wanted, as far as the budget lets it.

    Args:
        draw: parameters, one tensor.
        wanted: size per sample, broadcastable over the parameter.
        size: measures parameters, shaped as ``wanted``.
        project: makes parameters feasible.
        rounds: corrections for a size that is not proportional to the parameters.
    """
    for _ in range(rounds):
        found = size(draw)
        draw = project((draw[0] * (wanted / found.clamp_min(torch.finfo(found.dtype).tiny)),))
    return draw


class BoundGeometric(BoundPerturbation):
    """A displacement of every voxel: the moved image shows at ``p`` what the clean one shows at ``p +
    displacement(p)``.

    >>> from monai_adversarial.attacks import AffineAttack
    >>> from monai_adversarial.attacks.perturbations import BoundGeometric
    >>> from monai_adversarial.data.example import example_case
    >>> result = AffineAttack(steps=1)(*example_case(16))
    >>> isinstance(result.bound, BoundGeometric)
    True
    >>> moved = result.bound.move_label(result.clean_label, result.parameters)
    >>> bool((moved == result.label).all())
    True
    """

    geometric = True
    follows_voxels = False
    #: within ``sharing`` the parameters that were moved by last and their displacement, or nothing yet; None outside
    _shared: tuple[Parameters, torch.Tensor] | tuple[()] | None = None

    @abstractmethod
    def displacement(self, parameters: Parameters, inverse: bool = False) -> torch.Tensor:
        """The displacement in voxels, (batch, dimension, spatial...); ``inverse`` for the way back."""

    @property
    @abstractmethod
    def spacing(self) -> torch.Tensor:
        """Voxel spacing in mm on the image's device, (batch or 1, dimension)."""

    def displacement_mm(self, parameters: Parameters, inverse: bool = False) -> torch.Tensor:
        """The displacement in mm along the image's axes."""
        displacement = self.displacement(parameters, inverse)
        return displacement * self.spacing.to(displacement.dtype).reshape(
            *self.spacing.shape, *([1] * (displacement.ndim - 2))
        )

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Context in which image and label move by one displacement, which goes back to the parameters once: to
        integrate a velocity and to differentiate that takes a third of an elastic attack."""
        self._shared = ()
        try:
            yield
        finally:
            self._shared = None

    def _moving(self, parameters: Parameters) -> torch.Tensor:
        """``displacement``, remembered within ``sharing``."""
        if self._shared:
            known, displacement = self._shared
            same = all(a is b for a, b in zip(known, parameters, strict=True))
            # What a label without gradient asked for first leads the image's gradient nowhere.
            wanted = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
            if same and (displacement.requires_grad or not wanted):
                return displacement
        displacement = self.displacement(parameters)
        if self._shared is not None:
            self._shared = parameters, displacement
        return displacement

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The image moved by linear interpolation; outside the volume the border's values continue."""
        return warp_linear(image, self._moving(parameters))

    def move_soft_label(self, one_hot: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Move soft labels by linear interpolation."""
        return warp_linear(one_hot, self._moving(parameters))

    def move_class_map(self, label: torch.Tensor, classes: int, parameters: Parameters) -> torch.Tensor:
        """Soft one-hot of the moved class map, equal to linear interpolation of its one-hot encoding."""
        return warp_class_map(label, classes, self._moving(parameters))

    @torch.no_grad()
    def move_label(self, label: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Move a label or mask by nearest neighbor."""
        return warp_nearest(label, self._moving(parameters))

    def pull_back(self, volume: torch.Tensor, parameters: Parameters, mode: str = "linear") -> torch.Tensor:
        """Bring a volume on the moved image (for example its prediction) back to the clean image's geometry.

        Args:
            volume: (batch, channel, spatial...).
            parameters: what moved the image.
            mode: ``"linear"`` or ``"nearest"``.
        """
        check_choice("mode", mode, ("linear", "nearest"))
        displacement = self.displacement(parameters, inverse=True)
        return warp_linear(volume, displacement) if mode == "linear" else warp_nearest(volume, displacement)

    @torch.no_grad()
    def pulled_from_inside(self, parameters: Parameters) -> torch.Tensor:
        """Where the way back ends inside the volume, (batch, 1, spatial...)."""
        way = self.displacement(parameters, inverse=True)
        inside = torch.ones_like(way[:, 0], dtype=torch.bool)
        for axis, size in enumerate(way.shape[2:]):
            place = torch.arange(size, device=way.device).view(-1, *([1] * (way.ndim - 3 - axis)))
            end = way[:, axis] + place
            inside &= (end >= 0) & (end <= size - 1)
        return inside.unsqueeze(1)

    def largest_displacement(self, parameters: Parameters) -> torch.Tensor:
        """Largest displacement along each axis in mm, (batch, dimension)."""
        return self.displacement_mm(parameters).detach().abs().flatten(2).amax(dim=2)

    def longest_displacement(self, parameters: Parameters) -> torch.Tensor:
        """Length of the longest displacement in mm, (batch,)."""
        return self.displacement_mm(parameters).detach().norm(dim=1).flatten(1).amax(dim=1)

    def measured_motion(
        self,
        image: torch.Tensor,
        adversarial: torch.Tensor,
        parameters: Parameters,
        limit: float | None,
        rounding: float = 0.0,
    ) -> dict[str, Measurement]:
        """Longest displacement and Jacobian determinant of the deformation at full resolution, whether it explains the
        finished image, and by how much voxels change.

        Args:
            image: the clean image.
            adversarial: the finished image.
            parameters: what made it.
            limit: of the length of a displacement in mm; None for no limit of it.
            rounding: largest rounding of a voxel that came after the attack, in image units.
        """
        with torch.no_grad():
            moved = self.displacement_mm(parameters)
            expected = self.finished(image, parameters)
            determinant = jacobian_determinant(moved, self.spacing).flatten(1)
            lowest = torch.minimum(determinant.amin(dim=1), lowest_corner_determinant(moved, self.spacing))
        found = {
            "displacement_euclidean": Measurement(moved.norm(dim=1).flatten(1).amax(dim=1), "mm", limit),
            "jacobian_minimum": Measurement(lowest, "ratio", at_least=True),
            "jacobian_maximum": Measurement(determinant.amax(dim=1), "ratio"),
            "folded_fraction": Measurement((determinant <= 0).double().mean(dim=1), "fraction"),
            "unexplained_change": unexplained_change(self.scene, image, adversarial, expected, rounding),
        }
        return {**found, **intensity_changes(self.scene, image, adversarial)}
