# SPDX-License-Identifier: Apache-2.0
"""Dice per organ of one case, as studies keep it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

__all__ = ["mean_defined", "mean_dice", "organ_dice"]


def organ_dice(prediction: torch.Tensor, label: torch.Tensor, organs: Mapping[int, str]) -> dict[str, float]:
    """Dice of each organ; NaN for one that is neither in the label nor in the prediction.

    Args:
        prediction: class map.
        label: class map of the same shape.
        organs: class index -> name.
    """
    scores = {}
    for index, name in organs.items():
        found, true = prediction == index, label == index
        size = int(found.sum()) + int(true.sum())
        scores[name] = 2.0 * int((found & true).sum()) / size if size else math.nan
    return scores


def mean_defined(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are neither None nor NaN; None where there are none."""
    defined = [value for value in values if value is not None and not math.isnan(value)]
    return sum(defined) / len(defined) if defined else None


def mean_dice(scores: Mapping[str, float | None]) -> float:
    """Mean over the organs where Dice is defined; NaN where it is nowhere."""
    found = mean_defined(scores.values())
    return math.nan if found is None else found
