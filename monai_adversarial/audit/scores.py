# SPDX-License-Identifier: Apache-2.0
"""What an audit says of each organ: overlap, distances, volume."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_surface_dice
from scipy.ndimage import find_objects

from monai_adversarial.audit.segmentation import Segmentation, same_grid
from monai_adversarial.metrics import score_segmentation

__all__ = ["score_organs"]

NAN = float("nan")
#: what a mask of one organ is called while it is scored: the organ itself may be the background
MASK = "mask"


def score_organs(
    prediction: Segmentation,
    reference: Segmentation,
    organs: Mapping[int, str],
    surface_tolerance_mm: float,
    ignore_index: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores of every organ of one case.

    Dice, HD95 and the rule for empty organs are those of ``score_segmentation``. Surface Dice (Nikolov et al. 2021) is
    the share of both surfaces that lie within ``surface_tolerance_mm`` of each other: 0 where one of the two is
    empty, not defined where both are. Volumes are in ml.

    Args:
        prediction: on the grid of ``reference``.
        reference: label, or the clean prediction.
        organs: class index -> name; with masks the index is that of the channel.
        surface_tolerance_mm: see above.
        ignore_index: label value of voxels that do not count.

    Returns:
        organ -> ``dice``, ``hd95_mm``, ``surface_dice``, ``volume_ml`` (predicted), ``reference_ml``,
        ``reference_voxels``, ``predicted_voxels``.

    Raises:
        ValueError: for different grids.
    """
    if not same_grid(prediction, reference):
        raise ValueError(f"prediction and reference must be on one grid, got {prediction.shape} and {reference.shape}.")
    spacing = reference.spacing
    milliliters = math.prod(spacing) / 1000.0
    found: dict[str, dict[str, Any]] = {}
    exclusive = not (prediction.masks or reference.masks)
    if exclusive:
        predicted, wanted = prediction.values, reference.values
        if ignore_index is not None:
            counts = wanted != ignore_index
            predicted, wanted = (torch.where(counts, volume, 0) for volume in (predicted, wanted))
        scores = score_segmentation(predicted, wanted, spacing, dict(organs))
    for index, name in organs.items():
        if exclusive:
            own, truth, score = predicted == index, wanted == index, scores[name]
        else:
            own, truth = _mask(prediction, index), _mask(reference, index)
            if ignore_index is not None and not reference.masks:
                counts = reference.values != ignore_index
                own, truth = own & counts, truth & counts
            score = score_segmentation(own.int(), truth.int(), spacing, ["background", MASK])[MASK]
        found[name] = {
            **score,
            "surface_dice": _surface_dice(own.numpy(), truth.numpy(), spacing, surface_tolerance_mm),
            "volume_ml": score["predicted_voxels"] * milliliters,
            "reference_ml": score["reference_voxels"] * milliliters,
        }
    return found


def _mask(segmentation: Segmentation, index: int) -> torch.Tensor:
    return segmentation.values[index] > 0 if segmentation.masks else segmentation.values == index


def _surface_dice(predicted: np.ndarray, wanted: np.ndarray, spacing: list[float], tolerance: float) -> float:
    both = find_objects((predicted | wanted).astype(np.uint8))
    if not both or both[0] is None:
        return NAN
    if not predicted.any() or not wanted.any():
        return 0.0
    boxes = [(np.pad(volume[both[0]], 1)).astype(bool) for volume in (predicted, wanted)]
    first, second = (torch.from_numpy(box)[None, None] for box in boxes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MONAI about its own deprecated arguments
        return float(compute_surface_dice(first, second, [tolerance], include_background=True, spacing=spacing))
