# SPDX-License-Identifier: Apache-2.0
"""The intensity map that a live preprocessing applies, for an engine's model."""

from __future__ import annotations

from typing import Any

from monai.data import CacheDataset
from monai.transforms import (
    NormalizeIntensityd,
    ScaleIntensityd,
    ScaleIntensityRanged,
    ScaleIntensityRangePercentilesd,
)
from monai.utils import CommonKeys

from monai_adversarial.models.engine_parts import preprocessing_of, steps_of
from monai_adversarial.models.read_intensity import check_agrees, pipeline_steps, read_intensity
from monai_adversarial.models.recorded_intensity import RecordedIntensity, install_recorders
from monai_adversarial.utils.intensity import as_intensity_map

__all__ = ["AS_TOLD", "intensity_of", "record_maps"]

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
    read = read_intensity(preprocessing, image_key)
    reason = read.unknown or (None if read.steps else _scaled_before_merging(preprocessing, image_key))
    if reason is not None or not read.steps:
        given = as_intensity_map(told)
        why = "" if reason is None else f" ({reason.rstrip('.')})"
        if given is not None:
            return given, f"{given}{why}{AS_TOLD}"
        return None, None if reason is None else f"no map to HU{why}"
    found = check_agrees(told, read)
    exact = read.exact
    return (found if exact is None else exact), _fact(read)


def _fact(read: Any) -> str:
    places = ", ".join(f"`{read.where(step)}` ({step.name})" for step in read.steps)
    return read.text if read.exact is None else f"{read.exact} from {places}"


def record_maps(engine: Any, image_key: str = CommonKeys.IMAGE) -> None:
    """Let the engine's transforms note the maps that depend on the image, before its loader starts."""
    preprocessing = preprocessing_of(engine)
    if preprocessing is None:
        return
    new = any(
        step.kind == "fitted" and not isinstance(step.transform, RecordedIntensity)
        for step in pipeline_steps(preprocessing, image_key)
    )
    if not new:
        return
    recorded = install_recorders(preprocessing, image_key)
    dataset = engine.data_loader.dataset
    while getattr(dataset, "transform", None) is not preprocessing:
        dataset = dataset.dataset
    if recorded is not preprocessing:
        dataset.transform = recorded
    if isinstance(dataset, CacheDataset) and not dataset.runtime_cache:
        dataset.set_data(dataset.data)  # what it holds was made without recorders


def _scaled_before_merging(preprocessing: Any, image_key: str) -> str | None:
    """Why the map is not known where a custom transform makes the image from others that are scaled."""
    for number, step in enumerate(steps_of(preprocessing)):
        if isinstance(step, _SCALERS) and image_key not in step.keys:
            return f"`preprocessing#{number}` ({type(step).__name__}) scales {list(step.keys)}, not {image_key!r}"
    return None
