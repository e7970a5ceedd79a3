# SPDX-License-Identifier: Apache-2.0
"""Detection scores and the adversarial risk equal numbers computed by hand."""

from __future__ import annotations

import pytest
import torch
import torch.multiprocessing

from monai_adversarial.metrics import AdversarialRisk, DetectionMetric, detection_scores

CLEAN = [0.1, 0.4, 0.4, 0.8]
ATTACKED = [0.4, 0.9, 0.7]


def test_scores_by_hand() -> None:
    found = detection_scores(CLEAN, ATTACKED, 0.25)
    # pairs won: 0.4 beats one clean and ties with two, 0.9 beats four, 0.7 beats three
    assert found["auroc"] == pytest.approx((1 + 2 * 0.5 + 4 + 3) / 12)
    # precision where recall rises: 0.9 (1 of 1), 0.7 (2 of 3), the tie at 0.4 (3 of 6)
    assert found["aupr"] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    # one clean image of four may be found: 0.8; all above 0.4 count
    assert found["true_positive_rate"] == pytest.approx(2 / 3)
    assert detection_scores(CLEAN, ATTACKED, 0.05)["true_positive_rate"] == pytest.approx(1 / 3)
    assert detection_scores(CLEAN, ATTACKED, 1.0)["true_positive_rate"] == 1.0


def test_order_and_direction() -> None:
    perfect = {"auroc": 1.0, "aupr": 1.0, "true_positive_rate": 1.0, "false_positive_rate_at_95": 0.0}
    assert detection_scores([1, 2], [3, 4]) == perfect
    assert detection_scores([3, 4], [1, 2])["auroc"] == 0.0
    assert detection_scores([1, 1], [1, 1])["auroc"] == 0.5
    with pytest.raises(ValueError, match="clean must hold at least one score and no NaN"):
        detection_scores([float("nan")], [1.0])
    with pytest.raises(ValueError, match="attacked must hold at least one"):
        detection_scores([1.0], [])


def test_metric_adds_up_batches_and_starts_again() -> None:
    metric = DetectionMetric(0.25)
    metric(torch.tensor(CLEAN[:3] + ATTACKED[:1]), torch.tensor([0, 0, 0, 1]))
    metric(torch.tensor(CLEAN[3:] + ATTACKED[1:])[:, None], torch.tensor([0, 1, 1])[:, None])
    assert metric.aggregate() == pytest.approx(detection_scores(CLEAN, ATTACKED, 0.25))
    metric.reset()
    with pytest.raises(ValueError, match="no scores yet"):
        metric.aggregate()
    with pytest.raises(ValueError, match="0 or 1"):
        metric(torch.tensor([0.1, 0.2]), torch.tensor([0, 2]))


def test_risk_counts_what_is_wrong_and_accepted() -> None:
    risk = AdversarialRisk()
    risk(torch.tensor([True, True, True]), torch.tensor([True, False, True]))
    risk([torch.tensor(False), torch.tensor(True)], [torch.tensor(True), torch.tensor(False)])
    assert risk.aggregate() == {"adversarial_risk": 2 / 5, "wrong": 4 / 5, "accepted": 3 / 5}
    with pytest.raises(ValueError, match="booleans of the same images"):
        risk(torch.tensor([True]), torch.tensor([True, False]))
    with pytest.raises(ValueError, match="booleans of the same images"):
        risk(torch.tensor([0.3]), torch.tensor([1.0]))


def test_false_positives_at_a_sensitivity_of_95_percent_by_hand() -> None:
    attacked = [float(score) for score in range(21, 1, -1)]  # 19 of 20 are at or above 3
    assert detection_scores([1.0, 2.0, 3.0, 4.0], attacked)["false_positive_rate_at_95"] == 0.5
    assert detection_scores([1.0, 2.0, 3.0, 4.0], attacked[:-1])["false_positive_rate_at_95"] == 0.5  # all 19
    assert detection_scores([5.0], [5.0])["false_positive_rate_at_95"] == 1.0  # a tie is a false positive
