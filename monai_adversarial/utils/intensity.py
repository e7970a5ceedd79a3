# SPDX-License-Identifier: Apache-2.0
"""The map between Hounsfield units (HU) and the values that a network sees."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

__all__ = ["MOST_OUTSIDE", "IntensityMap", "as_intensity_map"]


#: share of voxels that may lie far outside, such as metal, before a map is taken not to be the one that scaled an image
MOST_OUTSIDE = 0.01


@dataclass(frozen=True)
class IntensityMap:
    """Affine intensity map with optional clipping: ``network = clip(image * scale + offset, low, high)``.

    It is applied inside the attacked function, so that budgets and clipping are physical.

    Args:
        scale: network units per HU, not zero.
        offset: network value of 0 HU.
        low: lowest network value, None for no clipping.
        high: highest network value, None for no clipping.
    """

    scale: float
    offset: float
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise ValueError(f"scale of an IntensityMap must be > 0 network units per HU, got {self.scale!r}.")

    @classmethod
    def from_window(
        cls, a_min: float, a_max: float, b_min: float = 0.0, b_max: float = 1.0, clip: bool = True
    ) -> IntensityMap:
        """Map the window ``a_min`` to ``a_max`` (HU) to ``b_min`` to ``b_max``, as MONAI's ``ScaleIntensityRange``."""
        if not a_max > a_min:
            raise ValueError(f"an intensity window needs a_max > a_min (HU), got a_min={a_min!r}, a_max={a_max!r}.")
        scale = (b_max - b_min) / (a_max - a_min)
        return cls(scale, b_min - a_min * scale, b_min if clip else None, b_max if clip else None)

    @property
    def window(self) -> tuple[float, float] | None:
        """The interval of HU that is not clipped, None without clipping."""
        if self.low is None or self.high is None:
            return None
        return (self.low - self.offset) / self.scale, (self.high - self.offset) / self.scale

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """HU to network values."""
        mapped = image * self.scale + self.offset
        return mapped if self.low is None and self.high is None else mapped.clamp(self.low, self.high)

    def fraction_outside(self, image: torch.Tensor) -> float:
        """The share of an image's voxels that lie more than a quarter of the window outside what this map gives, which
        it therefore did not scale; 0 for a map that does not clip."""
        if self.low is None or self.high is None:
            return 0.0
        room = 0.25 * (self.high - self.low)
        return float(((image < self.low - room) | (image > self.high + room)).float().mean())

    def inverse(self, image: torch.Tensor) -> torch.Tensor:
        """Network values to HU; what the window clipped stays at its edge."""
        return (image - self.offset) / self.scale


#: arguments of ``from_window``: those that must be given, and all
_NEEDED, _KNOWN = ("a_min", "a_max"), ("a_min", "a_max", "b_min", "b_max", "clip")


def _from_mapping(given: Mapping[str, Any]) -> IntensityMap:
    missing = [key for key in _NEEDED if key not in given]
    unknown = [key for key in given if key not in _KNOWN]
    if missing or unknown:
        wrong = [
            f"{what} {', '.join(map(repr, keys))}" for what, keys in (("lacks", missing), ("has", unknown)) if keys
        ]
        raise ValueError(
            "intensity as a mapping must have a_min and a_max (HU) and may have b_min, b_max and clip, but it "
            f"{' and '.join(wrong)}."
        )
    for key, value in given.items():
        if key != "clip" and (isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value)):
            raise ValueError(f"{key} of intensity must be a finite number, got {value!r}.")
    return IntensityMap.from_window(**given)


def as_intensity_map(intensity: Any) -> IntensityMap | None:
    """Read an :class:`IntensityMap` from one of MONAI's own transforms.

    Args:
        intensity: None, an ``IntensityMap``, ``ScaleIntensityRange`` / ``ScaleIntensityRanged``, ``NormalizeIntensity``
            with a given scalar ``subtrahend`` and ``divisor``, or a mapping of ``from_window``'s arguments (for YAML).

    Raises:
        ValueError: for a map whose constants depend on the image (``NormalizeIntensity`` without given statistics), and
            a mapping with missing or unknown keys or with values that are no numbers.
        TypeError: for anything else.
    """
    if intensity is None or isinstance(intensity, IntensityMap):
        return intensity
    if isinstance(intensity, Mapping):
        return _from_mapping(intensity)
    from monai.transforms import NormalizeIntensity, NormalizeIntensityd, ScaleIntensityRange, ScaleIntensityRanged

    if isinstance(intensity, ScaleIntensityRanged):
        intensity = intensity.scaler
    elif isinstance(intensity, NormalizeIntensityd):
        intensity = intensity.normalizer
    if isinstance(intensity, ScaleIntensityRange):
        low = 0.0 if intensity.b_min is None else float(intensity.b_min)
        high = 1.0 if intensity.b_max is None else float(intensity.b_max)
        return IntensityMap.from_window(float(intensity.a_min), float(intensity.a_max), low, high, bool(intensity.clip))
    if isinstance(intensity, NormalizeIntensity):
        if intensity.subtrahend is None or intensity.divisor is None or intensity.nonzero or intensity.channel_wise:
            raise ValueError(
                "intensity=NormalizeIntensity must have a given subtrahend and divisor (in HU), nonzero=False "
                "and channel_wise=False: "
                "statistics of the image itself would change with the perturbation."
            )
        subtrahend, divisor = (torch.as_tensor(value) for value in (intensity.subtrahend, intensity.divisor))
        if subtrahend.numel() != 1 or divisor.numel() != 1:
            raise ValueError("intensity=NormalizeIntensity must have one subtrahend and one divisor for all voxels.")
        return IntensityMap(1.0 / float(divisor), -float(subtrahend) / float(divisor))
    raise TypeError(
        "intensity must be an IntensityMap, ScaleIntensityRange(d), NormalizeIntensity(d) with fixed statistics "
        "or a mapping "
        f"of a_min, a_max, b_min, b_max, clip; got {type(intensity).__name__}."
    )
