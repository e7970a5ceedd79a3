# SPDX-License-Identifier: Apache-2.0
"""IoU with the wanted segmentation equals numbers computed by hand, and that of the attack's result."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case
from monai_adversarial.metrics import TargetIoU
from tests.metrics.attacked import untargeted

NAMES = ["background", "liver", "spleen"]


def test_iou_by_hand_with_the_rule_for_empty_organs() -> None:
    wanted = torch.tensor([[[1, 1, 1, 0, 0]], [[0, 0, 0, 0, 0]], [[2, 2, 0, 0, 0]]])
    found = torch.tensor([[[1, 1, 0, 1, 0]], [[0, 0, 0, 0, 0]], [[1, 2, 0, 0, 0]]])
    metric = TargetIoU(NAMES)
    rows = metric(found, wanted, clean=wanted)
    assert rows[0, :3].tolist() == pytest.approx([2 / 4, math.nan, 2 / 4], nan_ok=True)
    assert rows[1, :3].tolist() == pytest.approx([math.nan, math.nan, 1.0], nan_ok=True)
    assert rows[2, :3].tolist() == pytest.approx([0.0, 1 / 2, 1 / 4])
    assert rows[:, 5].tolist() == [1.0, 1.0, 1.0]
    assert metric.aggregate()["mean"] == pytest.approx((1 / 2 + 1 + 1 / 4) / 3)


def test_it_is_that_of_a_targeted_result() -> None:
    model, image, label = example_case(16)
    wanted = torch.where(label == 3, 2, label)
    result = PGD(16, units="HU", steps=3, targeted=True)(model, image, wanted)
    metric = TargetIoU(EXAMPLE_CLASSES)
    metric.add(result)
    assert metric.aggregate()["mean"] == pytest.approx(float(result.iou))
    assert metric.aggregate()["clean_mean"] == pytest.approx(float(result.clean_iou))
    with pytest.raises(ValueError, match="of a targeted attack"):
        metric.add(untargeted())
    with pytest.raises(ValueError, match="clean must be a segmentation"):
        metric(label, label)
