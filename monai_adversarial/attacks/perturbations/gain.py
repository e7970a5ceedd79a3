# SPDX-License-Identifier: Apache-2.0
"""Voxels multiplied by a gain of bounded size, in the domain where that has a meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Measurement, Parameters
from monai_adversarial.attacks.perturbations.geometric import intensity_changes, unexplained_change
from monai_adversarial.attacks.perturbations.rounding import Limits
from monai_adversarial.utils.intensity_map import IntensityMap
from monai_adversarial.utils.scene import Scene

__all__ = ["AIR", "DOMAINS", "BoundGain", "check_domain_window"]

DOMAINS = ("window", "attenuation", "image")
AIR = -1000.0  # HU of no attenuation

#: an edge of the window in image units: one number, or (batch or 1, channel or 1, 1...)
Edge = float | torch.Tensor


def check_domain_window(window: Sequence[float] | None) -> tuple[float, float] | None:
    """``window`` as two floats (HU) if it is low < high, None if it is None, else ValueError."""
    if window is None:
        return None
    if len(window) != 2 or not float(window[0]) < float(window[1]):
        raise ValueError(f"window must be (low, high) in HU with low < high, got {tuple(window)}.")
    return float(window[0]), float(window[1])


class BoundGain(BoundPerturbation):
    """A gain of each voxel on one batch, between a lowest and a highest one; zero of the domain stays zero.

    Args:
        scene: the clean batch.
        domain: what is multiplied: ``"window"``, ``"attenuation"`` or ``"image"``.
        window: (low, high) in HU for ``domain="window"``; None for that of the intensity map.
        lowest: gain, from 0 to 1.
        highest: gain, at least 1.
    """

    follows_voxels = False

    def __init__(
        self, scene: Scene, domain: str, window: tuple[float, float] | None, lowest: float, highest: float
    ) -> None:
        super().__init__(scene)
        self.domain, self.low, self.high = _domain(domain, window, scene)
        self.lowest_gain, self.highest_gain = lowest, highest

    def multiply(self, image: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """Multiply in the chosen domain, inside the region."""
        if self.domain == "image":
            shaded = image * gain
        elif self.domain == "attenuation":
            # Below air there is nothing to attenuate: padding keeps its value.
            shaded = image + (image - AIR).clamp_min(0) * (gain - 1)
        else:
            width: Any = self.high - self.low
            value = (image - self.low).clamp_min(0).clamp_max(width)
            shaded = image + torch.where(image < self.high, (value * gain).clamp_max(width) - value, 0)
        if self.domain == "image" or self.scene.stored is not None:  # the others stay in the range by themselves
            shaded = self.into_range(shaded, image)
        return shaded if self.scene.region is None else torch.where(self.scene.region, shaded, image)

    def untouched(self, image: torch.Tensor) -> torch.Tensor:
        """Voxels outside the region and the domain, where there is nothing to multiply."""
        if self.domain == "image":
            outside = image == 0
        elif self.domain == "attenuation":
            outside = image <= AIR
        else:
            outside = (image <= self.low) | (image >= self.high)
        return outside if self.scene.region is None else outside | ~self.scene.region

    @torch.no_grad()
    def quantize(self, image: torch.Tensor, adversarial: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """Values of the file's grid within the largest gain and the window."""

        def within_gain(clean: torch.Tensor, _: torch.Tensor) -> Limits:
            value = clean - self._offset
            gains = (value * self.lowest_gain, value * self.highest_gain)
            low, high = torch.minimum(*gains) + self._offset, torch.maximum(*gains) + self._offset
            return low, high.clamp_max(self.high) if self.domain == "window" else high

        return self._rounded(image, adversarial, within_gain)

    @property
    def _offset(self) -> Edge:
        """The value of no signal, whose gain is nothing."""
        return {"image": 0.0, "attenuation": AIR, "window": self.low}[self.domain]

    def gains(
        self, image: torch.Tensor, adversarial: torch.Tensor, expected: torch.Tensor, rounding: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest gain that explain each voxel of a finished image after rounding; both are 1 where there is
        nothing to multiply.

        Args:
            image: the clean image.
            adversarial: the finished image.
            expected: what the parameters make of the clean one.
            rounding: see ``measure``.
        """
        before, after = image.double(), adversarial.double()
        # What a voxel may differ without a gain: rounding, exactly where it happened, and float32.
        room = (after - expected.double()).abs().clamp_max(rounding) + self._spacing_of_floats(image)
        value = before - self._offset
        untouched = self.untouched(image)
        size = value.abs().clamp_min(torch.finfo(torch.float64).tiny)
        changed = (after - self._offset) * value.sign()
        lowest, highest = (changed - room) / size, (changed + room) / size
        return torch.where(untouched, 1.0, lowest), torch.where(untouched, 1.0, highest)

    @staticmethod
    def _spacing_of_floats(image: torch.Tensor) -> float:
        return float(image.abs().max()) * 4 * torch.finfo(torch.float32).eps

    def measure_surroundings_of_gain(
        self, image: torch.Tensor, adversarial: torch.Tensor, expected: torch.Tensor, rounding: float
    ) -> dict[str, Measurement]:
        """What a gain of any size must not do, and the change in HU."""
        change = (adversarial.double() - image.double()).abs()
        outside = torch.where(self.untouched(image), change, 0.0).flatten(1).amax(dim=1)
        room = rounding + self._spacing_of_floats(image)
        return {
            "change_outside_domain": Measurement(outside, self.scene.image_units, 0.0, tolerance=room),
            # Rounding toward the clean image goes up to a whole step.
            "unexplained_change": unexplained_change(self.scene, image, adversarial, expected, 2 * rounding),
            **intensity_changes(self.scene, image, adversarial),
        }


def _domain(domain: str, window: tuple[Edge, Edge] | None, scene: Scene) -> tuple[str, Edge, Edge]:
    """The domain to multiply in and the window's edges in the units of the image."""
    intensity = scene.intensity
    if domain == "attenuation" and scene.image_units != "HU":
        raise ValueError(
            "domain='attenuation' needs an image in HU, but the image is in network values: use domain='window'."
        )
    if domain != "window":
        return domain, 0.0, 0.0
    if scene.image_units == "HU":
        window = window or (None if intensity is None else intensity.window)
        if window is None:
            raise ValueError(
                "domain='window' needs the intensity window, but there is no intensity map with one: pass "
                "window=(low, high) in HU, for example the one in which such scans are read."
            )
        return domain, IntensityMap.like(window[0], scene.image), IntensityMap.like(window[1], scene.image)
    if intensity is None:
        if window is not None:
            raise ValueError(
                "window is in HU but the image is in network values: pass intensity= (the map between them)."
            )
        return "image", 0.0, 0.0
    if window is not None:
        first, second = (IntensityMap.like(intensity.scale * edge + intensity.offset, scene.image) for edge in window)
        if isinstance(first, torch.Tensor):
            return domain, torch.minimum(first, second), torch.maximum(first, second)
        return domain, min(first, second), max(first, second)
    if intensity.low is None or intensity.high is None or intensity.window is None:
        raise ValueError(
            "domain='window' needs the intensity window, but the intensity map does not clip: pass window=(low, high)."
        )
    return domain, IntensityMap.like(intensity.low, scene.image), IntensityMap.like(intensity.high, scene.image)
