# SPDX-License-Identifier: Apache-2.0
"""The intensity map that a live preprocessing applies."""

from __future__ import annotations

from typing import Any

from monai.transforms import (
    MapTransform,
    NormalizeIntensityd,
    ScaleIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)
from monai.utils import CommonKeys

from monai_adversarial.models.engine_parts import steps_of
from monai_adversarial.utils.intensity import IntensityMap, as_intensity_map

__all__ = ["describe_map", "intensity_of", "same_map"]

_SCALERS = (ScaleIntensityRanged, NormalizeIntensityd, ScaleIntensityd, ScaleIntensityRangePercentilesd)


def intensity_of(preprocessing: Any, image_key: str = CommonKeys.IMAGE) -> tuple[IntensityMap | None, str | None]:
    """The map from the file's values to the network's, and where it was read.

    Args:
        preprocessing: transform of the dataset.
        image_key: where the image is in its items.

    Returns:
        (map, place); (None, reason) where a scaling transform was found whose map is not the same for all images;
        (None, None) where there is none.
    """
    scalers = [
        (number, step)
        for number, step in enumerate(steps_of(preprocessing))
        if isinstance(step, _SCALERS) and isinstance(step, MapTransform)
    ]
    found = [(number, step) for number, step in scalers if image_key in step.keys]
    if not found and scalers:
        number, step = scalers[0]
        return None, f"`preprocessing#{number}` ({type(step).__name__}) scales {list(step.keys)}, not {image_key!r}"
    if not found:
        return None, None
    places = ", ".join(f"`preprocessing#{number}` ({type(step).__name__})" for number, step in found)
    if len(found) > 1:
        return None, f"{places} scale one after the other"
    try:
        return as_intensity_map(found[0][1]), places
    except (TypeError, ValueError):
        return None, f"{places} depends on the image"


def same_map(one: IntensityMap, other: IntensityMap) -> bool:
    """Whether two maps give the same values, up to rounding."""

    def close(a: float | None, b: float | None) -> bool:
        if a is None or b is None:
            return a is b
        return abs(a - b) <= 1e-4 * max(abs(a), abs(b), 1e-6)

    # The network value of 0 HU is small where the window is centered: compared on the scale of the window.
    reach = max(abs(one.offset), abs(other.offset), 100 * abs(one.scale))
    return (
        close(one.scale, other.scale)
        and abs(one.offset - other.offset) <= 1e-4 * reach
        and close(one.low, other.low)
        and close(one.high, other.high)
    )


def describe_map(intensity: IntensityMap) -> str:
    """For example ``-57..164 HU -> 0..1``."""
    window = intensity.window
    if window is None:
        return f"value * {intensity.scale:.6g} + {intensity.offset:.6g}"
    low, high = window
    unit = " HU" if low < 0 else ""
    return f"{low:.6g}..{high:.6g}{unit} -> {intensity.low:g}..{intensity.high:g}"
