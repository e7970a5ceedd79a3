# SPDX-License-Identifier: Apache-2.0
"""The cheapest change that a naive Bayes classifier takes for harmless."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_adversarial.classical.naive_bayes import NaiveBayes
from monai_adversarial.utils.validation import check_count

__all__ = ["Camouflage", "minimum_cost_camouflage"]


@dataclass(frozen=True)
class Camouflage:
    """What the adversary does with one sample.

    >>> from monai_adversarial.classical import NaiveBayes, minimum_cost_camouflage
    >>> model = NaiveBayes().fit([[0, 0], [0, 0], [1, 1], [1, 1]], [0, 0, 1, 1])
    >>> found = minimum_cost_camouflage(model, [0, 0], [[[0, 2], [2, 0]], [[0, 3], [3, 0]]])
    >>> found.cost, found.changed  # it is taken for harmless as it is
    (0.0, False)

    Args:
        sample: what it shows: changed where that pays, the original where not.
        cost: what the cheapest change costs; infinity where none is enough, 0 where none is needed.
        changed: whether it shows something else than the original.
    """

    sample: np.ndarray
    cost: float
    changed: bool


def minimum_cost_camouflage(
    model: NaiveBayes,
    sample: Any,
    costs: Sequence[Any],
    gain: float = math.inf,
    resolution: int = 1000,
) -> Camouflage:
    """The cheapest values of the features at which the log odds are no longer above 0.

    A dynamic program over features and over the gap that is left to the boundary, which is cut into ``resolution``
    parts. Parts are rounded so that a change that is found is enough in any case; where the gap is cut too coarsely,
    a cheaper one may be missed, never the reverse.

    >>> from monai_adversarial.classical import NaiveBayes, minimum_cost_camouflage
    >>> model = NaiveBayes().fit([[0, 0], [0, 0], [1, 1], [1, 1]], [0, 0, 1, 1])
    >>> free = [[[0, 2], [2, 0]], [[0, 3], [3, 0]]]  # the first code is cheaper to change
    >>> minimum_cost_camouflage(model, [1, 1], free)
    Camouflage(sample=array([0, 1]), cost=2.0, changed=True)

    Args:
        model: the classifier that the adversary knows.
        sample: (feature,), the number of each feature's value.
        costs: per feature a table (value, value): the cost of showing the second where the first is true; >= 0, 0 on
            the diagonal, infinity for what cannot be changed.
        gain: what the adversary gains when the sample passes; it does not pay more.
        resolution: parts of the gap.

    Raises:
        ValueError: for tables that do not fit the model.

    Survey entry: A26 (reconstruction).

    Source: Dalvi et al., Adversarial Classification, KDD 2004: minimum cost camouflage. The formula could not be read;
    the program is rebuilt from its description.
    """
    check_count("resolution", resolution)
    values = np.asarray(sample, dtype=np.int64)
    tables = _checked(costs, model)
    gap = float(model.decision(values[None])[0])
    if gap <= 0:
        return Camouflage(values, 0.0, False)
    unit = gap / resolution
    # cheapest[w]: least cost of the features so far to lower the log odds by at least w parts.
    cheapest = np.full(resolution + 1, math.inf)
    cheapest[0] = 0.0
    choices = []
    for feature, value in enumerate(values):
        odds, table = model.log_odds[feature], tables[feature][value]
        best, choice = np.full(resolution + 1, math.inf), np.full((resolution + 1, 2), -1)
        for other in range(len(odds)):
            # A hair is room for what rounding leaves of a part that is whole.
            parts = math.floor((odds[value] - odds[other]) / unit + 1e-9)
            if not math.isfinite(table[other]):
                continue
            for reached in range(resolution + 1):
                before = min(max(reached - parts, 0), resolution)
                if reached - parts > resolution:
                    continue
                cost = cheapest[before] + table[other]
                if cost < best[reached]:
                    best[reached], choice[reached] = cost, (other, before)
        cheapest = best
        choices.append(choice)
    cost = float(cheapest[resolution])
    if cost >= gain:
        return Camouflage(values, cost, False)
    shown, left = values.copy(), resolution
    for feature in reversed(range(len(values))):
        other, left = choices[feature][left]
        shown[feature] = other
    return Camouflage(shown, cost, True)


def _checked(costs: Sequence[Any], model: NaiveBayes) -> list[np.ndarray]:
    tables = [np.asarray(table, dtype=np.float64) for table in costs]
    shapes = [(count, count) for count in model.values]
    if [table.shape for table in tables] != shapes:
        raise ValueError(f"costs must be tables of shapes {shapes}, got {[table.shape for table in tables]}.")
    if any((table < 0).any() or np.isnan(table).any() or np.diagonal(table).any() for table in tables):
        raise ValueError("costs must be >= 0, and 0 where nothing changes.")
    return tables
