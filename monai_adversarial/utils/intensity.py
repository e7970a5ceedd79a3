# SPDX-License-Identifier: Apache-2.0
"""The map between Hounsfield units (HU) and the values that a network sees, from whatever says it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import torch

from monai_adversarial.utils.intensity_map import MOST_OUTSIDE, IntensityMap

__all__ = ["IntensityMap", "MOST_OUTSIDE", "as_intensity_map", "as_one_map", "gives_floats", "map_of_transform"]

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


def map_of_transform(transform: Any) -> IntensityMap | None:
    """The exact map of one of MONAI's intensity transforms, array or dictionary.

    Known are ``ScaleIntensityRange``, ``NormalizeIntensity`` with both statistics given, ``ShiftIntensity``,
    ``ScaleIntensity`` with a ``factor``, ``ThresholdIntensity`` that fills with its threshold, and ``Identity``.

    Returns:
        None for any other transform, and where the constants depend on the image or the output is cut to integers.
    """
    from monai import transforms as monai

    # What a dictionary transform calls for each key.
    inner: dict[Any, str] = {
        monai.ScaleIntensityRanged: "scaler",
        monai.NormalizeIntensityd: "normalizer",
        monai.ScaleIntensityd: "scaler",
        monai.ThresholdIntensityd: "filter",
    }
    known: Any = type(transform)
    if known is monai.ShiftIntensityd:
        # A factor in the image's meta changes the shift from image to image.
        if any(key is not None for key in transform.factor_key):
            return None
        transform, known = transform.shifter, monai.ShiftIntensity
    elif known in inner:
        transform = getattr(transform, inner[known])
        known = type(transform)
    if not gives_floats(getattr(transform, "dtype", None)):
        return None
    if known is monai.ScaleIntensityRange:
        return _of_range(transform)
    if known is monai.NormalizeIntensity:
        return _of_statistics(transform)
    if known is monai.ShiftIntensity:
        return IntensityMap(1.0, float(transform.offset))
    if known is monai.ScaleIntensity and transform.minv is None and transform.maxv is None:
        factor = 0.0 if transform.factor is None else float(transform.factor)
        return None if factor == -1.0 else IntensityMap(1.0 + factor, 0.0)
    if known is monai.ThresholdIntensity and transform.cval == transform.threshold:
        edge = float(transform.threshold)
        return IntensityMap(1.0, 0.0, edge, None) if transform.above else IntensityMap(1.0, 0.0, None, edge)
    if known in (monai.Identity, monai.Identityd):
        return IntensityMap(1.0, 0.0)
    return None


def gives_floats(dtype: Any) -> bool:
    """Whether a transform that was given this type, or one for each of its keys, makes floating point values."""
    if dtype is None:
        return True
    if isinstance(dtype, (tuple, list)):
        return all(gives_floats(one) for one in dtype)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype.removeprefix("torch."), dtype)
    if isinstance(dtype, torch.dtype):
        return dtype.is_floating_point
    return np.issubdtype(np.dtype(dtype), np.floating)


def _of_range(transform: Any) -> IntensityMap | None:
    a_min, a_max = float(transform.a_min), float(transform.a_max)
    b_min, b_max = (None if b is None else float(b) for b in (transform.b_min, transform.b_max))
    if a_min == a_max:  # MONAI shifts and does not clip
        return IntensityMap(1.0, (b_min or 0.0) - a_min)
    scale = 1.0 / (a_max - a_min)
    offset = -a_min * scale
    if b_min is not None and b_max is not None:
        # MONAI scales to the target range only where both of its ends are given.
        if b_min == b_max or (transform.clip and b_min > b_max):
            return None  # a constant image
        scale = (b_max - b_min) / (a_max - a_min)
        offset = b_min - a_min * scale
    if not transform.clip:
        return IntensityMap(scale, offset)
    return IntensityMap(scale, offset, b_min, b_max)


def _of_statistics(transform: Any) -> IntensityMap | None:
    if transform.subtrahend is None or transform.divisor is None:
        return None
    subtrahend = _per_channel(transform.subtrahend, transform.channel_wise)
    divisor = _per_channel(transform.divisor, transform.channel_wise)
    if subtrahend is None or divisor is None:
        return None
    divisor = torch.where(divisor == 0, torch.ones_like(divisor), divisor)  # as MONAI
    scale, offset = 1.0 / divisor, -subtrahend / divisor
    held = 0.0 if transform.nonzero else None
    if scale.numel() == 1 and offset.numel() == 1:
        return IntensityMap(float(scale), float(offset), held=held)
    both = torch.broadcast_tensors(scale, offset)
    return IntensityMap(both[0], both[1], held=held)


def _per_channel(statistic: Any, channel_wise: bool) -> torch.Tensor | None:
    """One number for all channels, (1, 1), or one for each, (1, channel); None for a statistic per voxel."""
    try:
        values = torch.as_tensor(statistic, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return None
    if values.numel() == 1:
        return values.reshape(1, 1)
    # Without channel_wise MONAI broadcasts over (channel, spatial...): a flat list would lie along the last axis.
    if (channel_wise or values.ndim > 1) and values.numel() == values.shape[0]:
        return values.reshape(1, -1)
    return None


def as_intensity_map(intensity: Any) -> IntensityMap | None:
    """Read an :class:`IntensityMap` from one of MONAI's own transforms.

    Args:
        intensity: None, an ``IntensityMap``, a transform that :func:`map_of_transform` knows, or a mapping of
            ``from_window``'s arguments (for YAML).

    Raises:
        ValueError: for a transform whose constants depend on the image (``NormalizeIntensity`` without given
            statistics), and a mapping with missing or unknown keys or with values that are no numbers.
        TypeError: for anything else.
    """
    if intensity is None or isinstance(intensity, IntensityMap):
        return intensity
    if isinstance(intensity, Mapping):
        return _from_mapping(intensity)
    found = map_of_transform(intensity)
    if found is not None:
        return found
    name = type(intensity).__name__
    if type(intensity).__module__.startswith("monai.transforms.intensity"):
        raise ValueError(
            f"intensity={name} is no fixed map: its constants depend on the image or its output is no clipped affine "
            "map of it; give ScaleIntensityRange, NormalizeIntensity with subtrahend and divisor (in HU), or the whole "
            "pipeline to read_intensity."
        )
    raise TypeError(
        "intensity must be an IntensityMap, ScaleIntensityRange(d), NormalizeIntensity(d) with fixed statistics "
        "or a mapping "
        f"of a_min, a_max, b_min, b_max, clip; got {name}."
    )


def as_one_map(intensity: Any) -> IntensityMap | None:
    """As :func:`as_intensity_map`, for what counts in HU and knows one increasing map for all channels.

    Raises:
        ValueError: for a map that inverts the image, that differs between channels or that holds voxels.
    """
    found = as_intensity_map(intensity)
    if found is None:
        return None
    if not found.is_uniform or found.held is not None:
        raise ValueError(f"intensity must be one map for all voxels and channels here, got {found}.")
    if float(found.scale) < 0:
        raise ValueError(f"intensity must not invert the image here, got {found}.")
    return found
