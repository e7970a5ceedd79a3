# SPDX-License-Identifier: Apache-2.0
"""Dice and SSIM over the budget, and the area under them, equal numbers computed by hand and MONAI's metric."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from monai.metrics import SSIMMetric

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import example_case
from monai_adversarial.metrics import RobustDiceCurve, SSIMCurve, normalized_area
from tests.helpers import random_image


def test_area_by_hand() -> None:
    # trapezoids: 2 * (1 + 0.6) / 2 + 4 * (0.6 + 0.2) / 2 = 3.2 of 6
    values = torch.tensor([[1.0, 0.6, 0.2], [0.5, 0.5, 0.5], [1.0, math.nan, 0.0]])
    area = normalized_area([0, 2, 6], values)
    assert area[:2].tolist() == pytest.approx([3.2 / 6, 0.5]) and bool(area[2].isnan())
    for budgets in ([2, 4, 6], [0, 2, 2], [0]):
        with pytest.raises(ValueError, match="budgets must rise from 0"):
            normalized_area(budgets, values)
    with pytest.raises(ValueError, match="one score for each of 2 budgets"):
        normalized_area([0, 1], values)


def test_a_larger_budget_keeps_what_a_smaller_one_found() -> None:
    scores, clean = torch.tensor([[0.4, 0.6, 0.2], [0.9, 0.5, 0.5]]), torch.tensor([0.8, 0.7])
    kept, measured = RobustDiceCurve([1, 2, 4]), RobustDiceCurve([1, 2, 4], keeps_best=False)
    rows, as_measured = kept(scores, clean), measured(scores, clean)
    assert kept.columns == (
        "clean_dice",
        "dice_at_1",
        "dice_at_2",
        "dice_at_4",
        "area",
        "relative_area",
        "largest_rise",
    )
    area = (0.6 + 0.4 + 2 * 0.3) / 4
    assert rows[0].tolist() == pytest.approx([0.8, 0.4, 0.4, 0.2, area, area / 0.8, 0.2], abs=1e-6)
    # an attack that raised the Dice is no worse than none
    assert rows[1, :4].tolist() == pytest.approx([0.7, 0.7, 0.5, 0.5], abs=1e-6)
    assert rows[1, 6].item() == pytest.approx(0.2, abs=1e-6)
    assert as_measured[0, 4].item() == pytest.approx((0.6 + 0.5 + 2 * 0.4) / 4, abs=1e-6)
    lost = kept(torch.tensor([[0.5, math.nan, 0.1]]), torch.tensor([0.8]))
    assert lost[0, 1] == 0.5 and bool(lost[0, 2:6].isnan().all())


def test_results_at_several_budgets_are_one_curve() -> None:
    model, image, label = example_case(16)
    results = [PGD(budget, units="HU", steps=2)(model, image, label) for budget in (2, 8)]
    curve = RobustDiceCurve([2, 8])
    row = curve.add(results)[0]
    expected = [float(results[0].clean_dice), *(float(result.adversarial_dice) for result in results)]
    assert row[:3].tolist() == pytest.approx(expected, abs=1e-6)
    similar = SSIMCurve([2, 8], window=(-160, 240))
    found = similar.add(results)[0]
    shown = [(part.as_tensor().clamp(-160, 240) + 160) / 400 for part in (image, *(r.adversarial for r in results))]
    monai = SSIMMetric(spatial_dims=3, win_size=7, data_range=1.0)
    assert found[0] == 1.0
    for place in (1, 2):
        assert found[place].item() == pytest.approx(float(monai(shown[place], shown[0])), abs=1e-4)
    with pytest.raises(ValueError, match="one for each budget 2, 8, got 1"):
        curve.add(results[:1])
    with pytest.raises(ValueError, match="one for each budget 2, 8, got AttackResult"):
        similar.add(results[0])
    other = PGD(8, units="HU", steps=1)(*example_case(16, seed=1))
    with pytest.raises(ValueError, match="one batch"):
        curve.add([results[0], other])
    with pytest.raises(ValueError, match="one batch"):
        similar.add([results[0], other])


def test_ssim_in_two_dimensions_has_the_window_of_the_paper() -> None:
    clean, changed = random_image((2, 1, 16, 16)), random_image((2, 1, 16, 16), seed=1)
    metric = SSIMCurve([0.5])
    rows = metric(changed[:, None], clean)
    monai = SSIMMetric(spatial_dims=2, win_size=11, data_range=1.0)(changed, clean).flatten()
    torch.testing.assert_close(rows[:, 1].float(), monai, atol=1e-4, rtol=0)
    assert rows[:, 2].tolist() == pytest.approx(((1 + rows[:, 1]) / 2).tolist())


@pytest.mark.parametrize("budgets", [[], [2, 1], [0, 1], [1, 1]])
def test_budgets_rise_from_above_zero(budgets: list[float]) -> None:
    with pytest.raises(ValueError, match="budgets must be"):
        RobustDiceCurve(budgets)


@pytest.mark.parametrize(
    ("metric", "y_pred", "y", "message"),
    [
        (RobustDiceCurve([1, 2]), torch.zeros(1, 3), torch.zeros(1), r"\(batch, 2\), got \(1, 3\)"),
        (RobustDiceCurve([1, 2]), torch.zeros(1, 2), torch.zeros(2), "one clean score per case"),
        (SSIMCurve([1]), torch.zeros(1, 2, 1, 8, 8), torch.zeros(1, 1, 8, 8), "an attacked image for each budget"),
        (SSIMCurve([1]), torch.zeros(1, 1, 1, 8), torch.zeros(1, 1, 8), "y must be the clean image"),
    ],
)
def test_input_that_does_not_fit_is_one_sentence(metric: Any, y_pred: Any, y: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(y_pred, y)
    with pytest.raises(ValueError, match="window must give two values in rising order"):
        SSIMCurve([1], window=(1, 1))
