# SPDX-License-Identifier: Apache-2.0
"""Dice and 95th percentile Hausdorff distance per organ, with the rule for empty organs written down."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from monai.metrics import HausdorffDistanceMetric
from scipy.ndimage import find_objects

from monai_adversarial.metrics.dice import class_dice, mean_of_defined
from monai_adversarial.metrics.organs import organ_names

__all__ = ["OrganScores", "mean_score", "score_segmentation"]

NAN = float("nan")


class OrganScores(TypedDict):
    """Scores of one organ: Dice from 0 to 1 and HD95 in mm; NaN where a score is not defined.

    >>> import torch
    >>> from monai_adversarial.metrics import OrganScores, score_segmentation
    >>> label = torch.zeros(8, 8, 8)
    >>> label[2:5, 2:5, 2:5] = 1
    >>> scores: OrganScores = score_segmentation(label, label, (1.0, 1.0, 2.0), ["background", "liver"])["liver"]
    >>> dict(scores)
    {'dice': 1.0, 'hd95_mm': 0.0, 'reference_voxels': 27, 'predicted_voxels': 27}
    """

    dice: float
    hd95_mm: float
    reference_voxels: int
    predicted_voxels: int


def _class_map(values: Any, name: str, dimensions: int) -> np.ndarray:
    """Class map as an integer array without batch and channel dimensions, on the CPU."""
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    while array.ndim > dimensions and array.shape[0] == 1:
        array = array[0]
    if array.ndim != dimensions:
        raise ValueError(
            f"{name} must be one class map with {dimensions} spatial dimensions, as many as spacing has values, "
            f"got shape {tuple(array.shape)}."
        )
    if array.dtype.kind not in "iub":
        whole = np.rint(array)
        if not np.array_equal(whole, array):
            raise ValueError(f"{name} must hold class indices (apply argmax first), got fractions or NaN.")
        array = whole
    return np.ascontiguousarray(array, dtype=np.int32)


def _union(first: tuple[slice, ...], second: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))


def score_segmentation(
    prediction: Any,
    reference: Any,
    spacing: Sequence[float],
    class_names: Sequence[str] | Mapping[Any, str],
    percentile: float = 95.0,
) -> dict[str, OrganScores]:
    """Dice and Hausdorff distance of every organ of one case, by MONAI's metrics; the background is not scored.

    The rule for empty organs:

    ==================  ==================  ==========================  =========================================
    organ in reference  in the prediction   Dice                        HD95
    ==================  ==================  ==========================  =========================================
    yes                 yes                 as defined                  as defined, mm
    no                  no                  NaN: skipped by the mean    NaN: skipped
    no                  yes                 0                           NaN: no distance exists (see ``mean_score``)
    yes                 no                  0                           NaN: no distance exists (see ``mean_score``)
    ==================  ==================  ==========================  =========================================

    Every organ is cropped to the bounding box of prediction and reference together before its surfaces are found,
    which does not
    change a distance.

    >>> import torch
    >>> from monai_adversarial.metrics import score_segmentation
    >>> label = torch.zeros(8, 8, 8)
    >>> label[2:5, 2:5, 2:5] = 1
    >>> moved, names = label.roll(1, dims=2), ["background", "liver"]
    >>> scores = score_segmentation(moved, label, (1.0, 1.0, 2.0), names, percentile=100)
    >>> round(scores["liver"]["dice"], 3), scores["liver"]["hd95_mm"]
    (0.667, 2.0)

    Args:
        prediction: class map (spatial...), leading dimensions of size 1 are ignored.
        reference: class map on the same grid.
        spacing: voxel spacing along each axis in mm.
        class_names: names of the classes, background first (see :func:`organ_names`).
        percentile: percentile of the symmetric surface distance.

    Returns:
        ``{organ: {"dice", "hd95_mm", "reference_voxels", "predicted_voxels"}}`` in the order of the classes.

    Raises:
        ValueError: for maps of different shape, fractions, or a spacing that does not fit.

    Source: textbook: Dice and the 95th percentile of the Hausdorff distance, by MONAI.

    Survey entry: M02 (own).
    """
    names = organ_names(class_names)
    steps = [float(step) for step in np.ravel(np.asarray(spacing, dtype=float))]
    if len(steps) not in (2, 3) or not all(math.isfinite(step) and step > 0 for step in steps):
        raise ValueError(f"spacing must give 2 or 3 values > 0 in mm, one per axis, got {steps}.")
    predicted = _class_map(prediction, "prediction", len(steps))
    wanted = _class_map(reference, "reference", len(steps))
    if predicted.shape != wanted.shape:
        raise ValueError(
            f"prediction and reference must have the same shape, got {predicted.shape} and {wanted.shape}."
        )

    boxes = [find_objects(np.maximum(volume, 0), max_label=max(names)) for volume in (predicted, wanted)]
    surface = HausdorffDistanceMetric(include_background=True, percentile=percentile, reduction="none")
    scores: dict[str, OrganScores] = {}
    for index, name in names.items():
        of_prediction, of_reference = boxes[0][index - 1], boxes[1][index - 1]
        if of_prediction is None or of_reference is None:
            counts = [int((volume == index).sum()) for volume in (predicted, wanted)]
            dice = NAN if counts == [0, 0] else 0.0
            scores[name] = OrganScores(dice=dice, hd95_mm=NAN, reference_voxels=counts[1], predicted_voxels=counts[0])
            continue
        box = _union(of_prediction, of_reference)
        found, truth = (torch.from_numpy(volume[box] == index)[None, None] for volume in (predicted, wanted))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # MONAI's metric calls its own deprecated argument
            distance = float(torch.as_tensor(surface(found, truth, spacing=steps)))
        scores[name] = OrganScores(
            dice=float(class_dice(found, truth, [0], 1, "sigmoid")),
            hd95_mm=distance,
            reference_voxels=int(truth.sum()),
            predicted_voxels=int(found.sum()),
        )
    return scores


def mean_score(scores: Mapping[str, OrganScores]) -> dict[str, float | int | list[str]]:
    """Mean over the organs of one case.

    >>> import torch
    >>> from monai_adversarial.metrics import mean_score, score_segmentation
    >>> label, nothing = torch.zeros(8, 8, 8), torch.zeros(8, 8, 8)
    >>> label[2:5, 2:5, 2:5] = 1
    >>> found = mean_score(score_segmentation(nothing, label, (1.0, 1.0, 2.0), ["background", "liver", "spleen"]))
    >>> found["dice"], found["missed"], found["invented"]
    (0.0, ['liver'], [])

    Args:
        scores: what :func:`score_segmentation` returned.

    Returns:
        ``dice`` and ``hd95_mm``: means over the organs where they are defined (NaN where none is); ``missed``: organs
        of the
        reference that the prediction lacks; ``invented``: predicted organs that the reference lacks. HD95 does not
        see the organs in
        these two lists, so that a mean HD95 is to be read together with them.
    """

    def mean(key: str) -> float:
        return mean_of_defined(float(organ[key]) for organ in scores.values())  # type: ignore[literal-required]

    return {
        "dice": mean("dice"),
        "hd95_mm": mean("hd95_mm"),
        "missed": [
            name for name, organ in scores.items() if organ["reference_voxels"] and not organ["predicted_voxels"]
        ],
        "invented": [
            name for name, organ in scores.items() if organ["predicted_voxels"] and not organ["reference_voxels"]
        ],
    }
