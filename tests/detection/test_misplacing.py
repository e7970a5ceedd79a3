# SPDX-License-Identifier: Apache-2.0
"""The attacker who wants anatomy that looks right, at a wrong place."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import APGD, PGD, ElasticAttack
from monai_adversarial.data.example import example_case
from monai_adversarial.detection import (
    Evading,
    MisplacedAnatomy,
    SegmentationPlausibility,
    evaluate_detector,
)
from monai_adversarial.detection.misplacing import misplaced
from monai_adversarial.metrics import mean_foreground_dice
from monai_adversarial.models import AttackedModel

pytest.importorskip("sklearn")


def test_a_segmentation_moves_as_far_as_it_must_and_keeps_its_shape() -> None:
    organ = torch.zeros(1, 1, 12, 12, dtype=torch.uint8)
    organ[..., 1:5, 4:8] = 1
    moved = misplaced(organ, 2, "softmax", overlap=0.35)
    # three of four rows: the first move whose Dice, 1 / 4, is below 0.35; down, where nothing leaves the image
    assert torch.equal(moved, organ.roll(3, dims=2)) or torch.equal(moved, organ.roll(3, dims=3))
    assert moved.sum() == organ.sum()


def test_masks_of_a_sigmoid_network_move_together() -> None:
    masks = torch.zeros(1, 2, 9, 9)
    masks[:, 0, 3:6, 3:6], masks[:, 1, 4:6, 3:5] = 1, 1
    moved = misplaced(masks, 2, "sigmoid", overlap=0.5)
    assert any(torch.equal(moved, masks.roll(step, dims=axis)) for axis in (2, 3) for step in (-2, -1, 1, 2))
    assert float(mean_foreground_dice(moved, masks, 2, "sigmoid")) <= 0.5


def test_nothing_stays_where_it_is() -> None:
    empty = torch.zeros(1, 1, 6, 6, dtype=torch.uint8)
    assert torch.equal(misplaced(empty, 2, "softmax", 0.35), empty)


def test_its_wrong_answer_is_more_plausible_than_that_of_an_attack_that_destroys() -> None:
    model, image, label = example_case()
    detector = SegmentationPlausibility(model).fit(example_case(seed=seed)[1] for seed in range(1, 9))
    destroyed = APGD(30, "HU", steps=12)(model, image, label)
    moved = APGD(30, "HU", steps=12, objective=MisplacedAnatomy())(model, image, label)
    assert bool(destroyed.success) and bool(moved.success)
    assert float(detector.score(moved.adversarial)) < float(detector.score(destroyed.adversarial))


def test_it_is_one_of_the_attackers_of_a_table() -> None:
    model, image, label = example_case()
    detector = SegmentationPlausibility(model).fit(example_case(seed=seed)[1] for seed in range(1, 9))
    detector.calibrate((example_case(seed=seed)[1] for seed in range(9, 13)), 0.2)
    row = evaluate_detector(
        detector, APGD(30, "HU", steps=8), [(image, label)], [0.1], attackers=["evading", "misplacing"]
    )
    assert row.adaptive is not None
    assert row.adaptive.attackers == ("misplacing, weight 0.1",)
    assert bool(row.adaptive.wrong) and float(row.adaptive.scores) < float(row.unaware.scores)


def test_it_is_left_out_where_it_means_nothing() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    classifier = AttackedModel(network, task="classification", intensity={"a_min": 0, "a_max": 1})
    with pytest.raises(TypeError, match="segmentations"):
        PGD(0.1, "network", steps=1, objective=MisplacedAnatomy())(classifier, torch.rand(1, 1, 4, 4))
    model, image, label = example_case(16)
    detector = SegmentationPlausibility(model).fit(example_case(16, seed)[1] for seed in range(1, 9))
    detector.calibrate((example_case(16, seed)[1] for seed in range(9, 13)), 0.2)
    row = evaluate_detector(detector, ElasticAttack(3, steps=1), [(image, label)], [1.0])
    assert row.adaptive is not None
    assert [name.partition(",")[0] for name in row.adaptive.tried] == ["unaware", "evading", "hiding", "orthogonal"]
    with pytest.raises(ValueError, match="leaves the anatomy where it is"):
        ElasticAttack(3, steps=1, objective=Evading(MisplacedAnatomy(), detector))(model, image, label)


def test_an_overlap_is_a_share() -> None:
    with pytest.raises(ValueError, match="overlap"):
        MisplacedAnatomy(1.5)
