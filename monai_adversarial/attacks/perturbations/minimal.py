# SPDX-License-Identifier: Apache-2.0
"""Additive noise that is to be as small as possible, instead of inside a given budget."""

from __future__ import annotations

import math
from functools import cached_property

import torch

from monai_adversarial.attacks.perturbations.additive import AdditiveNoise, BoundAdditiveNoise
from monai_adversarial.attacks.perturbations.base import Measurement, Parameters, per_sample
from monai_adversarial.attacks.perturbations.minimal_base import BoundMinimal, MinimalPerturbation
from monai_adversarial.attacks.perturbations.norms import NORMS, as_voxels, block_sizes, into_ball, norm_of
from monai_adversarial.utils.intensity_map import IntensityMap
from monai_adversarial.utils.scene import UNITS, Scene
from monai_adversarial.utils.validation import check_choice, check_count, check_positive

__all__ = ["BoundMinimalNoise", "MinimalNoise"]

#: share of the span that a random start changes each voxel by at most
START = 0.01


class MinimalNoise(AdditiveNoise, MinimalPerturbation):
    """Voxelwise additive noise whose norm an attack makes as small as it can.

    >>> from monai_adversarial.attacks import MinimalNoise
    >>> MinimalNoise("l0", block=4)
    MinimalNoise(norm='l0', epsilon=None, units='network', block=4)

    Args:
        norm: ``"linf"`` (largest change of a voxel), ``"l2"`` (Euclidean length over the sample), ``"l1"`` (sum of the
            changes) or ``"l0"`` (number of voxels, or of blocks of voxels, that change at all).
        epsilon: the largest norm that is allowed, verified on the finished image: in ``units``, of L0 a number of
            blocks; None for no limit.
        units: of the norm; see :class:`~monai_adversarial.attacks.AdditiveNoise`. Of L0 they say in which units the
            largest change is reported.
        block: voxels along each axis of the blocks that L0 counts.

    Raises:
        ValueError: for an argument out of range, and for blocks with another norm than L0.
    """

    def __init__(self, norm: str = "l2", epsilon: float | None = None, units: str = "network", block: int = 1) -> None:
        self.norm = check_choice("norm", norm, NORMS)
        self.epsilon = math.inf if epsilon is None else check_positive("epsilon", epsilon)
        self.units = check_choice("units", units, UNITS)
        self.block = check_count("block", block)
        if block > 1 and norm != "l0":
            raise ValueError(f"block counts voxels of the blocks of norm='l0', got block={block} with norm={norm!r}.")

    def bind(self, scene: Scene) -> BoundMinimalNoise:
        """Tie the noise to a batch."""
        return BoundMinimalNoise(self, scene)


class BoundMinimalNoise(BoundAdditiveNoise, BoundMinimal):
    """Noise on one batch, with what searches for the smallest one need of it.

    >>> from monai_adversarial.attacks import FMN
    >>> from monai_adversarial.data.example import example_case
    >>> result = FMN("l2", units="HU", steps=10)(*example_case(16))
    >>> half = result.bound.toward(result.parameters, result.objective.new_tensor([0.5]))
    >>> shorter, length = result.bound.length(half[0]), result.bound.length(result.parameters[0])
    >>> round(float(shorter / length), 3), result.bound.capped
    (0.5, False)

    Attributes:
        block: voxels along each axis of the blocks that L0 counts.
    """

    def __init__(self, perturbation: MinimalNoise, scene: Scene) -> None:
        super().__init__(perturbation, scene)
        self.block = perturbation.block
        if self.norm == "l0":
            self.unit, self.epsilon = 1.0, perturbation.epsilon
            self.radius = self.epsilon if scene.budget is None else per_sample(scene.budget * self.epsilon, scene.image)

    @property
    def capped(self) -> bool:
        """Whether there is a largest norm."""
        return math.isfinite(self.units_allowed)

    @cached_property
    def span(self) -> torch.Tensor:
        """The range of values that the network sees, (batch, 1...), in image units: what papers call 1 in images from
        0 to 1. The window where it is known, else the range of each image from its 1st to its 99th percentile."""
        scene, image = self.scene, self.scene.image
        intensity, width = scene.intensity, None
        if intensity is not None and intensity.window is not None and scene.image_units == "HU":
            width = intensity.window[1] - intensity.window[0]
        elif intensity is not None and intensity.low is not None and intensity.high is not None:
            width = intensity.high - intensity.low
        if width is None:
            found = scene.percentile_range
        else:
            known = torch.as_tensor(IntensityMap.like(width, image)).to(image)
            found = known.expand(image.shape[0], *known.shape[1:]) if known.ndim else known.expand(image.shape[0])
        widest = found.reshape(image.shape[0], -1).abs().amax(dim=1)
        # A constant image has no range: any number will do, because nothing is known.
        return per_sample(torch.where((widest > 0) & widest.isfinite(), widest, 1.0), image)

    @cached_property
    def box(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest value beyond which a change of a voxel is seen by nobody or allowed to nobody."""
        scene, image, span = self.scene, self.scene.image, self.span
        low, high = self.low, self.high
        if scene.image_units == "HU" and scene.intensity is not None and scene.intensity.window is not None:
            ends = [torch.as_tensor(IntensityMap.like(edge, image)).to(image) for edge in scene.intensity.window]
            seen_low, seen_high = torch.minimum(image, ends[0]), torch.maximum(image, ends[1])
            low = seen_low if low is None else torch.maximum(low, seen_low)
            high = seen_high if high is None else torch.minimum(high, seen_high)
        flat = image.flatten(1)
        low = per_sample(flat.amin(dim=1), image) - span if low is None else low
        high = per_sample(flat.amax(dim=1), image) + span if high is None else high
        return low.expand_as(image), high.expand_as(image)

    @property
    def room(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest change of each voxel: those of ``box``, and 0 where a voxel must not change."""
        (low, high), image = self.box, self.scene.image
        down, up = low - image, high - image
        return (down, up) if self.mask is None else (down * self.mask, up * self.mask)

    @property
    def support(self) -> torch.Tensor | None:
        """Voxels that may change."""
        return None if self.mask is None else self.mask.any(dim=1, keepdim=True)

    def length(self, noise: torch.Tensor) -> torch.Tensor:
        """The norm of some noise, (batch,), in image units; of L0 a number of blocks."""
        return norm_of(noise, self.norm, self.block)

    def within(self, noise: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        """The nearest noise with at most this norm, (batch,)."""
        return into_ball(noise, radius, self.norm, self.block)

    def blocks(self, noise: torch.Tensor) -> torch.Tensor:
        """Largest change of each block that L0 counts, (batch, 1, blocks...)."""
        return block_sizes(noise, self.block)

    def on_voxels(self, blocks: torch.Tensor) -> torch.Tensor:
        """What is known of each block, at each of its voxels."""
        return as_voxels(blocks, self.scene.image, self.block)

    def toward(self, parameters: Parameters, share: torch.Tensor) -> Parameters:
        """Noise with a share of the norm: the nearest one below it, or a multiple of it above one.

        Args:
            parameters: the noise.
            share: >= 0, (batch,).
        """
        (noise,) = parameters
        smaller = self.within(noise, self.length(noise) * share.clamp_max(1.0))
        return self.project((smaller * per_sample(share.clamp_min(1.0), noise),))

    def project(self, parameters: Parameters) -> Parameters:
        """Inside the largest norm, if there is one, and the range of values: both can only shrink the noise."""
        (noise,) = parameters
        if self.capped:
            image = self.scene.image
            radius = torch.as_tensor(self.radius, dtype=image.dtype, device=image.device)
            if radius.ndim == image.ndim and radius[0].numel() > 1:  # each channel has its own unit; linf alone
                noise = torch.maximum(torch.minimum(noise, radius), -radius)
            else:
                noise = self.within(noise, radius.flatten().expand(image.shape[0]))
        if self.low is not None:
            noise = torch.maximum(noise, self.low - self.scene.image)
        if self.high is not None:
            noise = torch.minimum(noise, self.high - self.scene.image)
        return (noise if self.mask is None else torch.where(self.mask, noise, 0.0),)

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """A small change of every voxel."""
        return self.project((self._draw(generators, gaussian=False) * self.span * START,))

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """Random noise of the same norm: signs for L-infinity, a random direction for L2 and L1, random blocks of the
        same number, changed at random by as much as the noise at most, for L0."""
        (noise,) = parameters
        if self.norm in ("linf", "l2"):
            return super().random_control(generators, parameters)
        draw = self._draw(generators, gaussian=self.norm == "l1")
        tiny = torch.finfo(draw.dtype).tiny
        if self.norm == "l1":
            return self.project((draw * per_sample(self.length(noise) / self.length(draw).clamp_min(tiny), draw),))
        chosen = self.within(draw, self.length(noise)) != 0
        largest = noise.detach().abs().flatten(1).amax(dim=1)
        return self.project((draw.sign() * chosen * per_sample(largest, draw),))

    def size(self, parameters: Parameters) -> torch.Tensor:
        """Share of the largest norm, (batch,); 0 where there is none."""
        found = self.length(parameters[0].detach())
        return found / self.euclidean_radius if self.capped else torch.zeros_like(found)

    @property
    def size_name(self) -> str:
        """The noise's name among the measurements."""
        return f"noise_{self.norm}"

    def finished_length(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Norm of a finished image's change in image units, (batch,), float64: measured, whatever the parameters."""
        return self.length(adversarial.double() - image.double())

    @torch.no_grad()
    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Values of the file's grid: the nearest ones where nothing limits the norm, those in the ball otherwise."""
        if self.norm == "l2" or (self.norm == "linf" and self.capped):
            return super().quantize(image, adversarial, parameters)
        if self.norm == "l1" and self.capped:
            # No further from the clean image than the noise went.
            return self._rounded(
                image,
                adversarial,
                lambda clean, changed: (torch.minimum(clean, changed), torch.maximum(clean, changed)),
            )
        return self._rounded(image, adversarial)

    def _measure_noise(
        self, image: torch.Tensor, adversarial: torch.Tensor, room: float, spacing: float
    ) -> Measurement:
        """The norm in the budget's units, and its limit if there is one."""
        if self.capped and self.norm in ("linf", "l2"):
            return super()._measure_noise(image, adversarial, room, spacing)
        limit = self.units_allowed if self.capped else None
        change = adversarial.double() - image.double()
        if self.norm == "l0":
            change = torch.where(change.abs() > room - spacing, change, 0.0)
            what = "voxels" if self.block == 1 else f"blocks of {self.block} voxels along each axis"
            return Measurement(self.length(change), what, limit)
        unit = torch.as_tensor(self.unit, dtype=change.dtype, device=change.device)
        values = self.length(change / unit)
        # Sums have no room but that of float32: it grows with the number of voxels.
        rooms = room * (self.count.double() if self.norm == "l1" else torch.ones_like(values))
        return Measurement(values, self.units, limit, tolerance=rooms / unit.double().flatten().amax())
