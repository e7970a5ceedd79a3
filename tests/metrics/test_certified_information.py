# SPDX-License-Identifier: Apache-2.0
"""Certified information gain and shares per level, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from ignite.engine import Engine

from monai_adversarial.handlers import CaseMetricHandler
from monai_adversarial.inferers import CertifiedSegmentationInferer
from monai_adversarial.metrics import (
    CertifiedDiceMetric,
    CertifiedInformationMetric,
    CertifiedRecallMetric,
    ClassHierarchy,
    certified_dice,
    certified_information,
    certified_recall,
)
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


def test_the_metric_takes_certificates_and_levels_and_averages_over_cases_that_have_the_class() -> None:
    metric = CertifiedInformationMetric(HIERARCHY)
    label = row(0, 1, 2, 3)
    metric(torch.cat([row(0, -1, 2, 3), row(0, 1, 1, 2), row(0, 1, 1, 1)], dim=1), label)
    # a decollated batch of one case, without a right kidney
    metric([torch.cat([row(0, 1, -1, -1)] * 3, dim=1)[0]], [row(0, 1, 0, 3)[0]])
    found = metric.aggregate()
    kidney = 1 - math.log(2) / math.log(4)
    # in the second case the groups' indices are those of "kidney" and "organ"
    assert found["left_information_gain"] == pytest.approx((kidney + 1) / 2)
    assert found["left_right_0"] == 0.5 and found["left_right_1"] == 0.5 and found["left_abstained"] == 0
    assert found["right_information_gain"] == 1 and metric.cases()["right_wrong"][0] == 0
    assert math.isnan(metric.cases()["right_wrong"][1]) and found["liver_abstained"] == 0.5
    with pytest.raises(ValueError, match="one map for each of the 3 levels, got 2"):
        metric(torch.cat([row(0)] * 2, dim=1), row(0))
    with pytest.raises(ValueError, match="y must be the label"):
        metric(torch.cat([row(0)] * 3, dim=1))


def test_certificates_are_counted_in_an_engine() -> None:
    pair = ClassHierarchy(["background", "left", "right"], [{"kidney": ["left", "right"]}])
    network = LinearNetwork((-4.0, 0.0, 4.0), (-0.8, 0.0, -0.8))
    inferer = CertifiedSegmentationInferer(sigma=0.1, n=60, tau=0.7, copies_at_once=20, hierarchy=pair)
    images = [random_image((1, 1, 10, 10), seed=seed) - 0.5 for seed in range(2)]
    certificates = [inferer.certify(image, network) for image in images]
    labels = [1 + (image > 0.2).long() for image in images]
    engine = Engine(lambda engine, batch: batch)
    metrics = {
        "information": CertifiedInformationMetric(pair),
        "recall": CertifiedRecallMetric(pair.names(0), spacing=1.0),
        "dice": CertifiedDiceMetric(pair.names(0)),
    }
    for name, metric in metrics.items():
        CaseMetricHandler(metric).attach(engine, name)
    cases = list(zip(certificates, labels, strict=True))
    state = engine.run(cases)
    gains = [certified_information(*case)[0]["all"]["information_gain"] for case in cases]
    assert state.metrics["information_all_information_gain"] == pytest.approx(sum(gains) / 2)
    bounds = [certified_dice(*case, pair.names(0))[0]["left"]["lower_bound"] for case in cases]
    assert state.metrics["dice_left_lower_bound"] == pytest.approx(sum(bounds) / 2)
    recalls = [certified_recall(*case, pair.names(0), spacing=1.0)[0]["left"]["recall"] for case in cases]
    assert state.metrics["recall_left_recall"] == pytest.approx(sum(recalls) / 2)
    assert all(len(state.metric_details[name]) == 2 for name in metrics)
    with pytest.raises(ValueError, match="y_pred must be certified with ClassHierarchy"):
        CertifiedInformationMetric(HIERARCHY)(certificates[0], labels[0])


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
