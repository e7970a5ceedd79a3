# SPDX-License-Identifier: Apache-2.0
"""Distances to the decision boundary over cases, by hand and from minimal-norm attacks."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.attacks import FAB
from monai_adversarial.data.example import example_case
from monai_adversarial.metrics import BoundaryDistance, local_lipschitz
from tests.metrics.attacked import untargeted


def test_median_and_quartiles_by_hand_with_cases_that_nothing_broke() -> None:
    metric = BoundaryDistance(budgets=[2, 4.5])
    metric(torch.tensor([3.0, 1.0]))
    metric(torch.tensor([5.0, torch.inf]))
    metric.skip(1)
    assert metric.aggregate() == {
        "median": 4.0,
        "lower_quartile": 1.0,
        "upper_quartile": 5.0,
        "success_rate": 0.75,
        "robust_at_2": 0.75,
        "robust_at_4.5": 0.5,
    }
    metric(torch.tensor([torch.inf, torch.inf, torch.inf]))
    assert metric.aggregate()["median"] == math.inf and metric.aggregate()["lower_quartile"] == 3.0
    for wrong in (-1.0, math.nan):
        with pytest.raises(ValueError, match="distances >= 0"):
            metric(torch.tensor([wrong]))


def test_minimal_norm_attacks_give_distances_and_the_smaller_of_two_counts() -> None:
    model, image, label = example_case(16)
    result = FAB("linf", units="HU", steps=3)(model, image, label)
    metric = BoundaryDistance()
    metric.add(result)
    metric.add([result, FAB("linf", units="HU", steps=2)(model, image, label)])
    assert metric.unit == "linf norm in HU"
    assert metric.cases()["distance"][0] == pytest.approx(float(result.boundary_distance))
    assert metric.cases()["distance"][1] <= metric.cases()["distance"][0]
    with pytest.raises(ValueError, match="the norm and units of the others, linf norm in HU, got l2 norm in HU"):
        metric.add(FAB("l2", units="HU", steps=2)(model, image, label))
    with pytest.raises(ValueError, match="result must be of a minimal-norm attack"):
        metric.add(untargeted())
    metric.reset()
    assert metric.unit is None


def test_lipschitz_quotient_of_a_linear_map_by_hand() -> None:
    clean = torch.zeros(3, 2)
    changed = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    matrix = torch.tensor([[3.0, 0.0], [4.0, 1.0]])
    found = local_lipschitz(clean, changed, clean @ matrix.T, changed @ matrix.T)
    assert found.tolist()[:2] == pytest.approx([5.0, 1.0]) and bool(found[2].isnan())
    with pytest.raises(ValueError, match="output must have the shape"):
        local_lipschitz(clean, changed, clean, changed[:1])
