# SPDX-License-Identifier: Apache-2.0
"""Certified information gain and shares per level, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.inferers import CertifiedSegmentationInferer
from monai_adversarial.metrics import ClassHierarchy, certified_information
from tests.helpers import LinearNetwork, random_image

HIERARCHY = ClassHierarchy(
    ["background", "left", "right", "liver"],
    [{"kidney": ["left", "right"]}, {"organ": ["kidney", "liver"]}],
)


def row(*values: int) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, -1)


def test_gain_and_shares_by_hand() -> None:
    label = row(0, 1, 1, 1, 2, 3, 3, 0)
    #         class | kidney | organ | nothing | wrong class | class | wrong group | background
    classes = row(0, -1, -1, -1, 1, 3, -1, 0)
    middle = row(0, 1, -1, -1, 1, 2, 1, 0)
    coarse = row(0, 1, 1, -1, 1, 1, 1, 0)
    scores = certified_information([classes, middle, coarse], label, HIERARCHY)[0]
    kidney, organ = 1 - math.log(2) / math.log(4), 1 - math.log(3) / math.log(4)
    assert scores["left"]["information_gain"] == pytest.approx((kidney + organ) / 3)
    assert scores["left"]["right"] == pytest.approx((0, 1 / 3, 1 / 3)) and scores["left"]["abstained"] == 1 / 3
    # a wrong class counts as wrong, although its group would be right
    assert scores["right"] == {
        "voxels": 1, "information_gain": 0.0, "right": (0.0, 0.0, 0.0), "wrong": 1.0, "abstained": 0.0
    }  # fmt: skip
    assert scores["liver"]["information_gain"] == pytest.approx(0.5) and scores["liver"]["wrong"] == 0.5
    assert scores["all"]["information_gain"] == pytest.approx((3 + kidney + organ) / 8)
    assert scores["all"]["voxels"] == 8


def test_a_certificate_brings_its_hierarchy_and_an_absent_class_has_no_scores() -> None:
    network = LinearNetwork((-4.0, 0.0, 4.0), (-0.8, 0.0, -0.8))
    pair = ClassHierarchy(["background", "left", "right"], [{"kidney": ["left", "right"]}])
    image = random_image((1, 1, 10, 10)) - 0.5
    inferer = CertifiedSegmentationInferer(sigma=0.1, n=60, tau=0.7, copies_at_once=20, hierarchy=pair)
    found = inferer.certify(image, network)
    label = 1 + (image > 0.2).long()
    scores = certified_information(found, label)[0]
    assert 0 < scores["all"]["information_gain"] < 1 and scores["all"]["right"][1] > 0
    assert sum(scores["all"]["right"]) + scores["all"]["wrong"] + scores["all"]["abstained"] == pytest.approx(1)
    assert scores["background"]["voxels"] == 0 and math.isnan(scores["background"]["information_gain"])


@pytest.mark.parametrize(
    ("certified", "hierarchy", "message"),
    [
        ([row(0)] * 3, None, "hierarchy is missing"),
        ([row(0)] * 2, HIERARCHY, "one map for each of the 3 levels, got 2"),
        ([row(0), row(0), row(2)], HIERARCHY, "certified has group 2, but level 2 has 2 groups"),
        ([row(0), row(0), row(0, 0)], HIERARCHY, "same shape"),
    ],
)
def test_bad_arguments_are_refused(certified, hierarchy, message) -> None:
    with pytest.raises(ValueError, match=message):
        certified_information(certified, row(0), hierarchy)
