# SPDX-License-Identifier: Apache-2.0
"""The intensity map that a live preprocessing applies."""

from __future__ import annotations

from typing import Any

from monai.transforms import (
    NormalizeIntensityd,
    ScaleIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)
from monai.utils import CommonKeys

from monai_adversarial.models.engine_parts import preprocessing_of, steps_of
from monai_adversarial.utils.intensity import IntensityMap, as_intensity_map

__all__ = ["AS_TOLD", "describe_map", "intensity_of", "record_maps", "same_map"]

#: end of the fact of a map that was told and not read
AS_TOLD = " as told"
_SCALERS = (ScaleIntensityRanged, NormalizeIntensityd, ScaleIntensityd, ScaleIntensityRangePercentilesd)


def intensity_of(preprocessing: Any, image_key: str = CommonKeys.IMAGE, told: Any = None) -> tuple[Any, str | None]:
    """The map from the file's values to the network's.

    Args:
        preprocessing: transform of the dataset.
        image_key: where the image is in its items.
        told: what was told of the map, which must agree with it.

    Returns:
        the map and the fact that says where it was read; (None, reason) where the image is scaled and the map is not
        known; (None, None) where it is not scaled.

    Raises:
        ValueError: for a told map that contradicts the pipeline, with both in the sentence.
    """
    given = as_intensity_map(told)
    found, place = _read(preprocessing, image_key)
    if found is None:
        if given is not None:
            return given, f"{describe_map(given)}{f' ({place})' if place else ''}{AS_TOLD}"
        return None, None if place is None else f"no map to HU: {place}"
    exact = getattr(found, "exact", found)
    if exact is None:
        from monai_adversarial.models.read_intensity import check_agrees

        return check_agrees(told, found), found.text
    if given is not None and not same_map(given, exact):
        raise ValueError(
            f"the intensity map {describe_map(given)} was told, but {place} maps {describe_map(exact)}: leave "
            "intensity out, or tell the pipeline's map."
        )
    return exact, f"{describe_map(exact)} from {place}"


def record_maps(engine: Any, image_key: str = CommonKeys.IMAGE) -> None:
    """Let the engine's transforms note the maps that depend on the image, before its loader starts."""
    try:
        from monai_adversarial.models.recorded_intensity import install_recorders
    except ImportError:
        return
    preprocessing = preprocessing_of(engine)
    if preprocessing is not None:
        recorded = install_recorders(preprocessing, image_key)
        if recorded is not preprocessing:
            dataset = engine.data_loader.dataset
            while getattr(dataset, "transform", None) is not preprocessing:
                dataset = dataset.dataset
            dataset.transform = recorded


def _read(preprocessing: Any, image_key: str) -> tuple[Any, str | None]:
    """The map, or what reads it from each image, and its place; (None, reason) or (None, None)."""
    try:
        from monai_adversarial.models.read_intensity import read_intensity
    except ImportError:
        return _read_one_transform(preprocessing, image_key)
    read = read_intensity(preprocessing, image_key)
    if read.unknown is not None:
        return None, read.unknown.rstrip(".")
    if not read.steps:
        return _read_before_merging(preprocessing, image_key)
    places = ", ".join(f"`{read.where(step)}` ({step.name})" for step in read.steps)
    return read if read.exact is None else read.exact, places


def _read_before_merging(preprocessing: Any, image_key: str) -> tuple[None, str | None]:
    """Why the map is not known where a custom transform makes the image from others that are scaled."""
    steps = steps_of(preprocessing)
    for number, step in enumerate(steps):
        if isinstance(step, _SCALERS) and image_key not in step.keys:
            return None, f"`preprocessing#{number}` ({type(step).__name__}) scales {list(step.keys)}, not {image_key!r}"
    return None, None


def _read_one_transform(preprocessing: Any, image_key: str) -> tuple[IntensityMap | None, str | None]:
    """A pipeline with one scaling transform whose map is the same for all images."""
    found = [
        (number, step)
        for number, step in enumerate(steps_of(preprocessing))
        if isinstance(step, _SCALERS) and image_key in step.keys
    ]
    if not found:
        return _read_before_merging(preprocessing, image_key)
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
    if not all(isinstance(value, (int, float)) for value in (one.scale, one.offset, other.scale, other.offset)):
        return False  # one map for each image is no map for all
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
