# SPDX-License-Identifier: Apache-2.0
"""Lengths and Jacobian determinants of deformations equal closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from monai_adversarial.metrics import DeformationStatistics, deformation_statistics
from tests.metrics.attacked import moved, untargeted


def stretched(factor: float, size: int = 8) -> torch.Tensor:
    """Stretched by a factor along the first axis of voxels of 2 mm, (1, 2, size, size), in mm."""
    place = 2.0 * torch.arange(size, dtype=torch.float64)
    shift = torch.zeros(1, 2, size, size, dtype=torch.float64)
    shift[0, 0] = ((factor - 1) * place)[:, None]
    return shift


def test_a_stretch_has_its_factor_as_determinant_and_its_lengths_in_mm() -> None:
    found = {name: float(value) for name, value in deformation_statistics(stretched(1.5), (2.0, 5.0)).items()}
    lengths = np.repeat(np.arange(8.0), 8)
    assert found["lowest_jacobian"] == pytest.approx(1.5) and found["highest_jacobian"] == pytest.approx(1.5)
    assert found["mean_mm"] == 3.5 and found["median_mm"] == 3.5 and found["largest_mm"] == 7.0
    assert found["p95_mm"] == pytest.approx(np.quantile(lengths, 0.95)) and found["folding_share"] == 0.0


def test_folding_is_found_where_it_is() -> None:
    shift = stretched(1.0)
    shift[0, 0, 4:] = -5.0  # two and a half voxels back, in one step
    found = deformation_statistics(shift, (2.0, 5.0))
    # central differences: 1 - 2.5 / 2 in the two rows beside the step; in the cell itself 1 - 2.5
    assert float(found["folding_share"]) == pytest.approx(2 / 8)
    assert float(found["lowest_jacobian"]) == pytest.approx(-1.5)


def test_means_are_over_cases_and_the_worst_is_one_of_them() -> None:
    metric = DeformationStatistics()
    metric(torch.cat([stretched(1.5), stretched(0.5)]), spacing=(2.0, 5.0))
    metric.skip(1)
    found = metric.aggregate()
    assert found["lowest_jacobian"] == pytest.approx(1.0) and found["worst_jacobian"] == pytest.approx(0.5)
    assert found["worst_mm"] == 7.0 and found["worst_folding_share"] == 0.0


def test_the_displacement_of_an_attack_is_within_what_it_verified() -> None:
    result = moved()
    metric = DeformationStatistics()
    metric.add(result)
    found = metric.aggregate()
    measured = {name: float(one.values) for name, one in result.budgets.items()}
    assert found["worst_mm"] == pytest.approx(measured["displacement_euclidean"], rel=1e-4)
    assert found["lowest_jacobian"] == pytest.approx(measured["jacobian_minimum"], rel=1e-4)
    assert found["highest_jacobian"] == pytest.approx(measured["jacobian_maximum"], rel=1e-4)
    assert found["folding_share"] == measured["folded_fraction"] and found["median_mm"] > 0
    with pytest.raises(ValueError, match="an attack with one displacement"):
        metric.add(untargeted())


@pytest.mark.parametrize(
    ("displacement", "spacing", "message"),
    [
        (torch.zeros(1, 3, 4, 4), 1.0, "shape"),
        (torch.full((1, 2, 4, 4), math.nan), 1.0, "finite"),
        (torch.zeros(1, 2, 4, 4), (1.0, 1.0, 1.0), "spacing must give 2 values in mm"),
        (torch.zeros(1, 2, 4, 4), -1.0, "> 0 mm"),
        (torch.zeros(1, 2, 4, 4), None, "spacing must be given in mm"),
    ],
)
def test_input_that_does_not_fit_is_one_sentence(displacement: torch.Tensor, spacing: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeformationStatistics()(displacement, spacing=spacing)
