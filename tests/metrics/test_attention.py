# SPDX-License-Identifier: Apache-2.0
"""Overlap of attention maps by hand."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.attacks import grad_cam
from monai_adversarial.data.example import EXAMPLE_CLASSES
from monai_adversarial.metrics import AttentionOverlap, attention_overlap
from tests.metrics.attacked import moved, untargeted

NAMES = ["background", "liver", "spleen"]


def maps(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def test_overlap_by_hand() -> None:
    clean = maps([4, 4, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0])
    attacked = maps([0, 3, 3, 0], [5, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0])
    found = attention_overlap(clean, attacked)
    assert found["overlap"][0].tolist() == pytest.approx([0.6, 1.0, 0.0, math.nan], nan_ok=True)
    # looked at: voxels 0 to 2, and 1 to 2
    assert found["iou"][0].tolist() == pytest.approx([2 / 3, 1.0, 0.0, math.nan], nan_ok=True)
    assert attention_overlap(clean, attacked, level=0.6)["iou"][0, 0] == pytest.approx(1 / 3)
    expected = torch.corrcoef(torch.stack([clean[0, 0], attacked[0, 0]]))[0, 1]
    assert float(found["correlation"][0, 0]) == pytest.approx(float(expected), abs=1e-6)
    assert found["correlation"][0, 1] == pytest.approx(1.0) and found["correlation"][0, 2:].isnan().all()


def test_the_metric_says_how_much_lies_in_each_organ() -> None:
    metric = AttentionOverlap(NAMES)
    label = torch.tensor([[[1, 1, 0, 0]]])
    metric(maps([0, 3, 3, 0], [1, 0, 0, 0]), maps([4, 4, 2, 0], [1, 0, 0, 0]), label=label)
    metric(maps([1, 0, 0, 0], [1, 0, 0, 0]), maps([1, 0, 0, 0], [1, 0, 0, 0]))
    cases = metric.cases()
    assert cases["liver_in_organ"] == pytest.approx([0.5, math.nan], nan_ok=True)
    assert cases["liver_clean_in_organ"][0] == pytest.approx(0.8) and math.isnan(cases["spleen_in_organ"][0])
    assert metric.aggregate()["liver_overlap"] == pytest.approx((0.6 + 1) / 2)


def test_an_attack_is_read_from_its_result() -> None:
    metric = AttentionOverlap(EXAMPLE_CLASSES, attention=grad_cam, classes=["liver", "lesion"])
    result = untargeted()
    rows = metric.add(result)
    before = grad_cam(result.model, result.image, classes=[2, 3])
    after = grad_cam(result.model, result.adversarial, classes=[2, 3])
    expected = attention_overlap(before, after)["overlap"][0]
    assert metric.columns[5] == "lesion_overlap"
    assert rows[0, [0, 5]].tolist() == pytest.approx(expected.tolist()) and bool((expected < 1).all())


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves the anatomy where it is"):
        AttentionOverlap(EXAMPLE_CLASSES, attention=grad_cam).add(moved())
    with pytest.raises(ValueError, match="attention must be a function"):
        AttentionOverlap(EXAMPLE_CLASSES).add(untargeted())
    with pytest.raises(ValueError, match="one for each of liver, spleen, got"):
        AttentionOverlap(NAMES)(maps([1.0, 2.0]), maps([1.0, 2.0]))
    with pytest.raises(ValueError, match="at least 0"):
        attention_overlap(maps([-1.0, 2.0]), maps([1.0, 2.0]))
    with pytest.raises(ValueError, match="must have one shape"):
        attention_overlap(maps([1.0, 2.0]), maps([1.0, 2.0, 3.0]))
