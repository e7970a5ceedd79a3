# SPDX-License-Identifier: Apache-2.0
"""A few simple features of an organ: what classical classifiers of images work on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["FEATURES", "organ_features"]

FEATURES = ("volume_ml", "mean_hu", "std_hu", "roughness_hu", "entropy_bits")
#: HU of a bin of the histogram whose entropy is a feature
BIN_HU = 25.0


def organ_features(image: Any, label: Any, organ: int, spacing: Sequence[float]) -> np.ndarray:
    """Volume, mean, standard deviation and texture of one organ, (5,), in the order of ``FEATURES``.

    ``roughness_hu`` is the mean absolute difference of neighbors inside the organ, ``entropy_bits`` that of its
    histogram in bins of 25 HU. Written by hand, and not those of a radiomics standard.

    >>> import numpy as np
    >>> from monai_adversarial.classical import organ_features
    >>> label = np.zeros((4, 4, 4)); label[1:3, 1:3, 1:3] = 1
    >>> organ_features(60 * label, label, 1, (10, 10, 10)).tolist()
    [8.0, 60.0, 0.0, 0.0, 0.0]

    Args:
        image: (spatial...) in HU.
        label: class map on the same grid.
        organ: class.
        spacing: mm along each axis.

    Raises:
        ValueError: for another shape, and an organ that is not there.
    """
    values, inside = np.asarray(image, dtype=np.float64), np.asarray(label) == organ
    if values.shape != inside.shape or len(spacing) != values.ndim:
        raise ValueError(
            f"image, label and spacing must fit each other, got {values.shape}, {inside.shape} and {len(spacing)} axes."
        )
    if not inside.any():
        raise ValueError(f"organ must be in the label, but no voxel is {organ}.")
    chosen = values[inside]
    differences = []
    for axis in range(values.ndim):
        both = np.take(inside, range(1, inside.shape[axis]), axis) & np.take(
            inside, range(inside.shape[axis] - 1), axis
        )
        differences.append(np.abs(np.diff(values, axis=axis))[both])
    steps = np.concatenate(differences)
    counts = np.unique(np.floor(chosen / BIN_HU), return_counts=True)[1] / len(chosen)
    return np.array(
        [
            len(chosen) * float(np.prod(spacing)) / 1000,
            chosen.mean(),
            chosen.std(),
            steps.mean() if len(steps) else 0.0,
            float(-(counts * np.log2(counts)).sum()) + 0.0,
        ]
    )
