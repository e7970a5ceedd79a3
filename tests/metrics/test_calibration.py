# SPDX-License-Identifier: Apache-2.0
"""Calibration errors and Brier scores equal numbers by hand, scikit-learn's and MONAI's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import CalibrationErrorMetric
from sklearn.metrics import brier_score_loss

from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case
from monai_adversarial.metrics import CalibrationUnderAttack, brier_score, expected_calibration_error
from monai_adversarial.models import predict, predict_probabilities
from tests.helpers import random_image, tiny_segmentation_network
from tests.metrics.attacked import untargeted

NAMES = ["background", "liver", "spleen"]


def test_error_by_hand() -> None:
    confidence = torch.tensor([0.95, 0.85, 0.65, 0.6, 0.0], dtype=torch.float64)
    correct = torch.tensor([1, 0, 1, 1, 0])
    # ten bins: (0.9, 1], (0.8, 0.9], (0.6, 0.7], (0.5, 0.6], [0, 0.1]
    gaps = [0.05, 0.85, 0.35, 0.4, 0.0]
    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(sum(gaps) / 5)
    # two bins: (0.5, 1] holds four with mean confidence 3.05 / 4 and accuracy 3 / 4
    assert expected_calibration_error(confidence, correct, bins=2) == pytest.approx(0.05 / 5)
    assert math.isnan(expected_calibration_error(torch.empty(0), torch.empty(0)))


def test_numbers_equal_those_of_other_libraries() -> None:
    generator = np.random.default_rng(0)
    confidence, correct = generator.random(500), generator.random(500) < 0.7
    monai = CalibrationErrorMetric(num_bins=15)
    monai(torch.tensor(confidence)[None, None].float(), torch.tensor(correct)[None, None].float())
    ours = expected_calibration_error(torch.tensor(confidence), torch.tensor(correct))
    assert ours == pytest.approx(float(monai.aggregate()), abs=1e-5)
    brier = brier_score(torch.tensor(confidence), torch.tensor(correct))
    assert brier == pytest.approx(brier_score_loss(correct, confidence))


def test_the_foreground_by_hand() -> None:
    # Voxels: liver found, liver missed, spleen invented, background.
    label = torch.tensor([[[1, 1, 0, 0]]])
    values = torch.tensor([[[0.2, 0.6, 0.1, 1.0], [0.8, 0.3, 0.2, 0.0], [0.0, 0.1, 0.7, 0.0]]])
    metric = CalibrationUnderAttack(NAMES, bins=10)
    certain = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]])
    metric(values, label, clean=certain)
    found = metric.aggregate()
    # The background voxel is in no organ: three voxels, confidences 0.8 (right), 0.6 and 0.7 (wrong).
    assert found["ece"] == pytest.approx((0.2 + 0.6 + 0.7) / 3, abs=1e-6)
    squares = [0.2**2 + 0.2**2, 0.6**2 + 0.7**2 + 0.1**2, 0.9**2 + 0.2**2 + 0.7**2]
    assert found["brier"] == pytest.approx(sum(squares) / 3, abs=1e-6)
    assert found["liver_ece"] == pytest.approx((0.2 + 0.7) / 2, abs=1e-6)
    assert found["liver_brier"] == pytest.approx((0.2**2 + 0.7**2) / 2, abs=1e-6)
    assert found["spleen_ece"] == pytest.approx(0.7, abs=1e-6) and math.isnan(found["clean_spleen_ece"])
    assert found["clean_ece"] == found["clean_brier"] == found["clean_liver_brier"] == 0.0


def test_classes_that_are_not_scored_count_as_the_rest() -> None:
    label = torch.tensor([[[2, 1]]])
    values = torch.tensor([[[0.1, 0.2], [0.5, 0.7], [0.4, 0.1]]])
    metric = CalibrationUnderAttack(NAMES, classes=["liver"], bins=10)
    metric(values, label, clean=values)
    found = metric.aggregate()
    # liver 0.5 where the label has spleen: wrong; liver 0.7: right
    assert found["ece"] == pytest.approx((0.5 + 0.3) / 2, abs=1e-6)
    assert found["brier"] == pytest.approx((2 * 0.5**2 + 2 * 0.3**2) / 2, abs=1e-6)


def test_masks_that_overlap() -> None:
    values, label = torch.tensor([[[0.9, 0.25], [0.6, 0.1]]]), torch.tensor([[[1, 1], [0, 0]]])
    metric = CalibrationUnderAttack(["liver", "lesion"], activation="sigmoid", bins=10)
    metric(values, label, clean=values)
    found = metric.aggregate()
    # 0.9 right twice (the second one is 1 - 0.1), 0.75 and 0.6 wrong, in three bins
    assert found["ece"] == pytest.approx((0.2 + 0.75 + 0.6) / 4, abs=1e-6)
    assert found["brier"] == pytest.approx((0.1**2 + 0.75**2 + 0.6**2 + 0.1**2) / 4, abs=1e-6)
    assert found["lesion_brier"] == pytest.approx(0.6**2, abs=1e-6)


def test_probabilities_are_those_of_the_network_and_agree_with_the_prediction() -> None:
    network = tiny_segmentation_network()
    image = random_image((1, 1, 6, 6, 6))
    found = predict_probabilities(network, image)
    torch.testing.assert_close(found, network(image).softmax(dim=1).detach())
    assert torch.equal(found.argmax(dim=1, keepdim=True), predict(network, image).long())
    assert not found.requires_grad and all(weight.requires_grad for weight in network.parameters())


def test_the_result_of_an_attack_is_read() -> None:
    model, image, label = example_case(16)
    result = untargeted()
    metric = CalibrationUnderAttack(EXAMPLE_CLASSES, probabilities=predict_probabilities)
    row = metric.add(result)
    again = CalibrationUnderAttack(EXAMPLE_CLASSES)
    values = [predict_probabilities(model, one) for one in (result.adversarial, image)]
    torch.testing.assert_close(row, again(values[0], label, clean=values[1]))
    with pytest.raises(ValueError, match="probabilities must be a function"):
        again.add(result)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.tensor([[[2.0], [-1.0], [0.0]]]), "are they logits"),
        (torch.tensor([[[0.5], [0.5], [0.5]]]), "sum to 1"),
        (torch.tensor([[[0.5], [0.5]]]), r"shape \(batch, 3, spatial"),
        (torch.full((1, 3, 1), math.nan), "are they logits"),
        (None, "clean must hold probabilities"),
    ],
)
def test_what_is_no_probability_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CalibrationUnderAttack(NAMES)(torch.tensor([[[1.0], [0.0], [0.0]]]), torch.tensor([[[0]]]), clean=values)
    with pytest.raises(ValueError, match="lie between 0 and 1"):
        brier_score(torch.tensor([1.5]), torch.tensor([1]))
    with pytest.raises(ValueError, match="same decisions"):
        expected_calibration_error(torch.tensor([0.5]), torch.tensor([1, 0]))
