# SPDX-License-Identifier: Apache-2.0
"""Additive noise in an L-infinity, L2 or root-mean-square ball."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch

from monai_adversarial.attacks.perturbations.base import (
    BoundPerturbation,
    Measurement,
    Parameters,
    Perturbation,
    per_sample,
)
from monai_adversarial.attacks.perturbations.rounding import Limits, rounded_to_length
from monai_adversarial.utils.scene import UNITS, Scene
from monai_adversarial.utils.slabs import count_true, largest, total
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = ["AdditiveNoise", "BoundAdditiveNoise"]

NORMS = ("linf", "l2", "rms")


class AdditiveNoise(Perturbation):
    """Voxelwise additive noise: ``image + noise``, one number per voxel.

    Voxels outside the attack's region do not change. Nor do, when the image is in network values, those that the
    intensity window has already clipped (their HU is unknown) and those that the pipeline holds whatever the raw image
    says (the zeros of ``NormalizeIntensity(nonzero=True)``). HU of -1500 and below mark voxels outside the scanner's
    field of view and do not change.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack
    >>> from monai_adversarial.data.example import example_case
    >>> result = Attack(AdditiveNoise(5, norm="rms", units="HU"), steps=3)(*example_case(16))
    >>> found = result.budgets["noise_rms"]
    >>> found.units, round(float(found.values))
    ('HU', 5)

    Args:
        epsilon: radius of the ball, in ``units``; 0 is the identity.
        norm: ``"linf"`` (largest change of a voxel), ``"l2"`` (Euclidean norm over the sample) or ``"rms"`` (root mean
            square over the voxels that may change, which compares across image sizes).
        units: ``"HU"`` (of the raw image), ``"network"`` (values as the network sees them), ``"fraction"`` of the
            intensity window, or ``"percentile"``: share of the range from the 1st to the 99th percentile of each sample
            and channel, for images without HU. Where channels of a sample have different sizes for a unit, the norm
            must be ``"linf"``.

    Raises:
        ValueError: for a negative epsilon, an unknown norm or unknown units.
    """

    budget_attributes = ("epsilon",)

    def __init__(self, epsilon: float, norm: str = "linf", units: str = "network") -> None:
        self.epsilon = check_positive("epsilon", epsilon, allow_zero=True)
        self.norm = check_choice("norm", norm, NORMS)
        self.units = check_choice("units", units, UNITS)

    def bind(self, scene: Scene) -> BoundAdditiveNoise:
        """Tie the ball to a batch, in the units of its voxels.

        Raises:
            ValueError: for units that the scene cannot convert, and for a Euclidean norm in units that differ between
            channels.
        """
        return BoundAdditiveNoise(self, scene)


class BoundAdditiveNoise(BoundPerturbation):
    """Additive noise on one batch; the parameter is the noise itself, (batch, channel, spatial...), in image units.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> result = PGD(16, "HU", steps=1)(model, image, label, region=label == 2)
    >>> float(result.bound.radius), result.bound.changeable.tolist()
    (16.0, [1.0])

    Attributes:
        unit: one unit of the budget in image units: one number, or (batch, channel or 1, 1...) where they differ.
        epsilon: the radius in image units, before ``scene.budget`` multiplies it per sample; as ``unit``.
        radius: the radius with it: one number, or (batch, channel or 1, 1...) where samples have their own.
    """

    per_sample_budget = True

    def __init__(self, perturbation: AdditiveNoise, scene: Scene) -> None:
        super().__init__(scene)
        self.norm, self.units = perturbation.norm, perturbation.units
        self.units_allowed = perturbation.epsilon
        self.unit = self._per_sample_unit(scene.in_image_units(1.0, perturbation.units))
        self.epsilon = self._per_sample_unit(scene.in_image_units(perturbation.epsilon, perturbation.units))
        image = scene.image
        self.radius: float | torch.Tensor = self.epsilon
        if scene.budget is not None:
            if isinstance(self.epsilon, torch.Tensor):
                self.radius = per_sample(scene.budget, image) * self.epsilon
            else:
                self.radius = per_sample(scene.budget * self.epsilon, image)
        self.mask: torch.Tensor | None
        self._look(image)
        if scene.region is None and self.mask is not None and bool(self.mask.all()):
            self.mask = None

    def rebind(self, perturbation: Perturbation, scene: Scene) -> BoundAdditiveNoise:
        """The same ball around another image."""
        made = copy.copy(self)
        made.scene = scene
        made._look(scene.image)
        return made

    def _look(self, image: torch.Tensor) -> None:
        """What the voxels of an image allow."""
        scene = self.scene
        mask = torch.ones_like(image, dtype=torch.bool) if scene.region is None else scene.region.expand_as(image)
        if scene.image_units == "HU":
            mask = mask & (image > -1500)
        elif scene.intensity is not None:
            mask = mask & scene.intensity.reachable(image)
        self.mask = mask
        self.count = count_true(mask).clamp_min(1)
        self.low, self.high = self.valid_range(image)

    def _per_sample_unit(self, value: float | torch.Tensor) -> float | torch.Tensor:
        """A radius, or a unit, for each sample of the batch."""
        if not isinstance(value, torch.Tensor):
            return value
        if self.norm != "linf":
            if bool((value - value[:, :1]).abs().max() > 1e-4 * value.abs().max()):
                raise ValueError(
                    f"norm={self.norm!r} needs one size of a unit for all channels of a sample, but {self.units!r} "
                    "differs between the channels of this image: use norm='linf'."
                )
            value = value[:, :1]
        return value.expand(self.scene.batch, *value.shape[1:])

    @property
    def changeable(self) -> torch.Tensor:
        """Share of the voxels in the attack's region that may change, (batch,)."""
        region, image = self.scene.region, self.scene.image
        if self.mask is None:
            return torch.ones(image.shape[0], dtype=image.dtype, device=image.device)
        allowed = count_true(self.mask).to(image.dtype)
        whole = image[0].numel() if region is None else region.expand_as(image).flatten(1).sum(dim=1).clamp_min(1)
        return allowed / whole

    @property
    def support(self) -> torch.Tensor | None:
        """Voxels that may change, less those whose whole budget the intensity window clips to one value."""
        scene, image = self.scene, self.scene.image
        mask = self.mask
        if scene.image_units == "HU" and scene.intensity is not None:
            (radius,) = self.radii
            ends = [self.project((sign * radius * torch.ones_like(image),))[0] for sign in (-1.0, 1.0)]
            low, high = (scene.intensity(image + end) for end in ends)
            mask = low != high if mask is None else mask & (low != high)
        return None if mask is None else mask.any(dim=1, keepdim=True)

    @property
    def euclidean_radius(self) -> torch.Tensor:
        """Radius of the Euclidean ball per sample, (batch,)."""
        if isinstance(self.radius, torch.Tensor):
            radius = self.radius.flatten()
        else:
            radius = torch.full_like(self.count, self.radius, dtype=self.scene.image.dtype)
        return radius * self.count.to(radius.dtype).sqrt() if self.norm == "rms" else radius

    @property
    def radii(self) -> Parameters:
        """The ball's radius, (batch, 1, ...)."""
        image = self.scene.image
        if self.norm == "linf":
            if isinstance(self.radius, torch.Tensor):
                return (self.radius,)
            shape = (image.shape[0], *([1] * (image.ndim - 1)))
            return (torch.full(shape, self.radius, dtype=image.dtype, device=image.device),)
        return (per_sample(self.euclidean_radius, image),)

    @property
    def norms(self) -> tuple[str, ...]:
        """Sign steps in the L-infinity ball, unit gradient steps otherwise."""
        return ("linf" if self.norm == "linf" else "l2",)

    def zeros(self) -> Parameters:
        """No noise."""
        return (torch.zeros_like(self.scene.image),)

    def _draw(self, generators: list[torch.Generator], gaussian: bool) -> torch.Tensor:
        noise = torch.empty_like(self.scene.image)
        for sample, generator in zip(noise, generators, strict=True):
            if gaussian:
                sample.normal_(generator=generator)
            else:
                sample.uniform_(-1.0, 1.0, generator=generator)
        return noise if self.mask is None else noise * self.mask

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """Uniform in the box, or uniform in direction and radius for the Euclidean balls."""
        if self.norm == "linf":
            return self.project((self._draw(generators, gaussian=False) * self.radius,))
        noise = self._draw(generators, gaussian=True)
        length = noise.flatten(1).norm(dim=1).clamp_min(torch.finfo(noise.dtype).tiny)
        shrink = torch.stack([torch.rand((), generator=g, device=noise.device, dtype=noise.dtype) for g in generators])
        return self.project((noise * per_sample(self.euclidean_radius * shrink / length, noise),))

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """Random signs of the noise's largest change (of each channel where those have their own radius), or a random
        direction of its Euclidean length."""
        if self.norm == "linf":
            if isinstance(self.epsilon, torch.Tensor):
                sizes = parameters[0].detach().abs().flatten(2).amax(dim=2)
                sizes = sizes.view(*sizes.shape, *([1] * (parameters[0].ndim - 2)))
                return self.project((self._draw(generators, gaussian=False).sign() * sizes,))
            size = parameters[0].detach().flatten(1).abs().amax(dim=1)
            return self.project((self._draw(generators, gaussian=False).sign() * per_sample(size, parameters[0]),))
        noise = self._draw(generators, gaussian=True)
        wanted = parameters[0].detach().flatten(1).norm(dim=1)
        length = noise.flatten(1).norm(dim=1).clamp_min(torch.finfo(noise.dtype).tiny)
        return self.project((noise * per_sample(wanted / length, noise),))

    def project(self, parameters: Parameters) -> Parameters:
        """Ball first, then the valid range of values, which can only shrink the noise."""
        (noise,) = parameters
        if self.norm == "linf":
            noise = noise.clamp(-self.radius, self.radius)  # type: ignore[arg-type]  # both numbers or both tensors
        else:
            length = noise.flatten(1).norm(dim=1).clamp_min(torch.finfo(noise.dtype).tiny)
            noise = noise * per_sample((self.euclidean_radius / length).clamp_max(1.0), noise)
        # In place from here on, where no gradient needs what was before.
        in_place = not (torch.is_grad_enabled() and noise.requires_grad)
        if self.low is not None:
            noise = torch.maximum(noise, self.low - self.scene.image, out=noise if in_place else None)
        if self.high is not None:
            noise = torch.minimum(noise, self.high - self.scene.image, out=noise if in_place else None)
        if self.mask is not None:
            noise = noise.mul_(self.mask) if in_place else noise * self.mask
        return (noise,)

    def apply(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Add the noise; ``project`` has kept it inside the ball, the region and the range of values."""
        return image + parameters[0]

    def size(self, parameters: Parameters) -> torch.Tensor:
        """How far the noise goes in the ball's norm, as a share of ``epsilon``, (batch,); 0 where epsilon is 0."""
        epsilon = self.epsilon
        if isinstance(epsilon, torch.Tensor):
            share = torch.where(epsilon > 0, parameters[0].detach() / epsilon, 0.0)
            noise, epsilon = share.flatten(1), 1.0
        else:
            noise = parameters[0].detach().flatten(1)
        if self.norm == "linf":
            length = noise.abs().amax(dim=1)
        else:
            length = noise.norm(dim=1)
            if self.norm == "rms":
                length = length / self.count.to(length.dtype).sqrt()
        return length / epsilon if epsilon > 0 else torch.zeros_like(length)

    def frozen_fraction(self, gradients: Parameters) -> torch.Tensor:
        """Share of zero gradients among the voxels that may change."""
        zero = (gradients[0] == 0) if self.mask is None else (gradients[0] == 0) & self.mask
        return count_true(zero) / self.count

    def untouched(self, image: torch.Tensor) -> torch.Tensor | None:
        """Voxels outside the region, the field of view and what the intensity window shows."""
        return None if self.mask is None else ~self.mask

    @torch.no_grad()
    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Values of the file's grid in the ball; a Euclidean length is kept, see ``rounded_to_length``."""
        if self.norm == "linf":
            # A header holds a slope of a tenth as 0.1000000015: 200 steps of it are 20 HU to everybody.
            radius = self.radius * (1 + torch.finfo(torch.float32).eps)
            return self._rounded(image, adversarial, lambda clean, _: (clean - radius, clean + radius))

        wanted = rounded_to_length(self.grid, image, parameters[0])
        room = self.grid.step / 4  # of what float32 misplaces; the next value is a whole step away

        def no_further(clean: torch.Tensor, _: torch.Tensor, change: torch.Tensor) -> Limits:
            end = clean + change.double()
            return torch.minimum(clean, end) - room, torch.maximum(clean, end) + room

        return self._rounded(image, image + wanted, no_further, wanted)

    def measure(
        self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters, rounding: float = 0.0
    ) -> dict[str, Measurement]:
        """Largest change and root-mean-square change, in the budget's units and in HU where they are known."""
        # float32 voxels near 3000 HU are 2.4e-4 apart: not a change of the attacker's choosing.
        spacing = float(image.detach().abs().max()) * torch.finfo(torch.float32).eps
        found = {f"noise_{self.norm}": self._measure_noise(image, adversarial, rounding + spacing, spacing)}
        in_hounsfield: dict[str, torch.Tensor | None]
        if self.scene.one_unit:
            amounts = {
                "largest_change": largest(_change, adversarial, image),
                "rms_change": total(_squared_change, adversarial, image).sqrt() / self._root_of_count,
            }
            in_hounsfield = {name: self.scene.in_hounsfield(amount) for name, amount in amounts.items()}
        else:
            changes = self.scene.in_hounsfield(adversarial.double() - image.double())
            assert changes is not None
            flat = changes.flatten(1)
            in_hounsfield = {
                "largest_change": flat.abs().amax(dim=1),
                "rms_change": flat.norm(dim=1) / self._root_of_count,
            }
        for name, values in in_hounsfield.items():
            if values is not None:
                found[name] = Measurement(values, "HU")
        if self.mask is not None:
            outside, tolerance = self._in_units(
                lambda a, c, m: _change(a, c) * ~m, rounding, adversarial, image, self.mask
            )
            found["change_outside_region"] = Measurement(outside, self.units, 0.0, tolerance=tolerance)
        return found

    @property
    def _root_of_count(self) -> torch.Tensor:
        return self.count.double().sqrt()

    def _measure_noise(
        self, image: torch.Tensor, adversarial: torch.Tensor, room: float, spacing: float
    ) -> Measurement:
        """The noise's norm in the budget's units."""
        limit: float | torch.Tensor
        tolerance: float | torch.Tensor
        if self.norm == "linf":
            values, tolerance = self._in_units(_change, room, adversarial, image)
        else:
            euclidean = total(_squared_change, adversarial, image).sqrt()
            size = euclidean if self.norm == "l2" else euclidean / self._root_of_count
            # Lengths are rounded inward: only float32 has room, whose errors have no direction and add to the square.
            allowed = float(torch.as_tensor(self.radius).min())
            room = spacing * (float(self.count.max()) ** 0.5 if self.norm == "l2" else 1.0)
            room = math.hypot(allowed, room) - allowed
            unit = self.unit.double().flatten() if isinstance(self.unit, torch.Tensor) else self.unit
            values, tolerance = (
                _units(size, unit, room) if isinstance(unit, torch.Tensor) else (size / unit, room / unit)
            )
        if isinstance(self.epsilon, torch.Tensor) or isinstance(self.unit, torch.Tensor):
            limit = self.units_allowed
        else:
            limit = self.epsilon / self.unit
        if self.scene.budget is not None:
            limit = self.scene.budget.double() * limit
        return Measurement(values, self.units, limit, tolerance=tolerance)

    def _in_units(
        self, size: Callable[..., torch.Tensor], room: float, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, float | torch.Tensor]:
        """The largest of a voxelwise size per sample in the budget's units, and the room for rounding there."""
        if not isinstance(self.unit, torch.Tensor):
            return largest(size, *tensors) / self.unit, room / self.unit
        found = size(*tensors).flatten(2).amax(dim=2)
        unit = self.unit.double().flatten(1).expand_as(found)
        in_units, rooms = _units(found, unit, room)
        values, channel = in_units.max(dim=1)
        return values, rooms.gather(1, channel[:, None])[:, 0]


def _change(adversarial: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return (adversarial.double() - image.double()).abs_()


def _squared_change(adversarial: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return (adversarial.double() - image.double()).square_()


def _units(size: torch.Tensor, unit: torch.Tensor, room: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sizes and the room for rounding in a unit that is 0 where an image has no range: what rounding explains is 0 of
    it there, anything else infinitely many."""
    some = unit.clamp_min(torch.finfo(unit.dtype).tiny)
    none = torch.where(size > room, torch.inf, 0.0).to(size)
    return torch.where(unit > 0, size / some, none), torch.where(unit > 0, room / some, 0.0)
