# SPDX-License-Identifier: Apache-2.0
"""Rows of cases: kept, and averaged where they are defined."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from monai.data import MetaTensor

from monai_adversarial.metrics import CaseMetric, VolumeChange
from monai_adversarial.metrics.case_metric import as_column
from tests.helpers import random_label

NAMES = ["background", "liver", "spleen"]


class Twice(CaseMetric):
    columns = ("value", "twice")

    def rows(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, factor: float = 2.0) -> torch.Tensor:
        value = as_column("y_pred", y_pred)
        return torch.stack([value, factor * value], dim=1)


def test_means_are_over_the_cases_where_they_are_defined_and_rows_are_kept() -> None:
    metric = Twice()
    assert metric(torch.tensor([1.0, math.nan])).shape == (2, 2)
    metric([torch.tensor(4.0)], factor=3.0)
    metric.skip(1)
    assert metric.aggregate() == {"value": 2.5, "twice": 7.0}
    assert metric.cases()["twice"][0] == 2.0 and len(metric) == 4
    assert math.isnan(metric.cases()["value"][3])
    metric.reset()
    with pytest.raises(ValueError, match="Twice has no cases yet"):
        metric.aggregate()
    with pytest.raises(NotImplementedError, match="Twice cannot read the result of an attack"):
        metric.add(None)


@pytest.mark.parametrize("values", [torch.zeros(2, 2), torch.zeros(1, 2, 3), None])
def test_what_is_no_column_is_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="scores must hold one number per case"):
        as_column("scores", values)


def test_a_decollated_batch_has_the_rows_of_the_batch() -> None:
    prediction, clean = (random_label((3, 1, 6, 6, 6), seed=seed) for seed in (0, 1))
    spacing = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    whole, cases = VolumeChange(NAMES), VolumeChange(NAMES)
    rows = whole(prediction, clean, spacing=spacing)
    assert torch.equal(cases(list(prediction), list(clean), spacing=list(spacing)), rows)
    assert whole.aggregate() == cases.aggregate()
    with pytest.raises(ValueError, match="as many cases as y_pred, 3, got 2"):
        cases(list(prediction), list(clean)[:2], spacing=1.0)
    with_affine = [
        MetaTensor(case, affine=torch.diag(torch.cat([size, torch.ones(1)])))
        for case, size in zip(prediction, spacing, strict=True)
    ]
    torch.testing.assert_close(cases(with_affine, list(clean)), rows)
