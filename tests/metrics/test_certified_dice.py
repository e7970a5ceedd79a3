# SPDX-License-Identifier: Apache-2.0
"""Certified Dice against the worst and best of all outcomes of the abstained voxels."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_adversarial.inferers.certified_segmentation import CertifiedSegmentationInferer
from monai_adversarial.metrics.certified_dice import certified_dice
from monai_adversarial.metrics.segmentation import score_segmentation
from tests.helpers import LinearNetwork, random_image, random_label

NAMES = ["background", "liver", "spleen"]


def dice(prediction, label, organ) -> float:
    """NaN where the organ is in neither."""
    found = [p == organ for p in prediction]
    truth = [q == organ for q in label]
    total = sum(found) + sum(truth)
    return 2 * sum(p and q for p, q in zip(found, truth, strict=True)) / total if total else math.nan


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 2)), min_size=7, max_size=7).filter(
        lambda pairs: sum(p == -1 for p, _ in pairs) <= 4
    )
)
def test_bounds_are_the_worst_and_best_of_all_outcomes(pairs):
    prediction, label = zip(*pairs, strict=True)
    holes = [i for i, p in enumerate(prediction) if p == -1]
    scores = certified_dice(torch.tensor(prediction).view(1, 1, 7), torch.tensor(label).view(1, 1, 7), NAMES)[0]
    for organ, name in ((1, "liver"), (2, "spleen")):
        outcomes = []
        for filling in itertools.product(range(3), repeat=len(holes)):
            filled = list(prediction)
            for where, value in zip(holes, filling, strict=True):
                filled[where] = value
            outcomes.append(dice(filled, label, organ))
        defined = [value for value in outcomes if not math.isnan(value)]
        found = scores[name]
        if not defined:
            assert math.isnan(found["lower_bound"]) and math.isnan(found["upper_bound"])
            continue
        assert found["lower_bound"] == pytest.approx(min(defined))
        if organ in label or organ in prediction:
            assert found["upper_bound"] == pytest.approx(max(defined))
            assert found["abstentions_wrong"] == pytest.approx(dice(prediction, label, organ))
            assert found["lower_bound"] <= found["abstentions_wrong"] <= found["upper_bound"]


def test_without_abstentions_all_forms_are_the_dice():
    prediction, label = random_label((2, 1, 6, 6, 6), seed=1), random_label((2, 1, 6, 6, 6), seed=2)
    for case, scores in enumerate(certified_dice(prediction, label, NAMES)):
        expected = score_segmentation(prediction[case, 0], label[case, 0], (1, 1, 1), NAMES)
        for name in NAMES[1:]:
            found = scores[name]
            for form in ("abstentions_wrong", "lower_bound", "upper_bound"):
                assert found[form] == pytest.approx(expected[name]["dice"])
            assert found["reference_voxels"] == expected[name]["reference_voxels"]


def test_counts_by_hand():
    prediction = torch.tensor([1, 1, 1, -1, -1, -1, 0, 2]).view(1, 1, 8)
    label = torch.tensor([1, 1, 0, 1, 2, 0, 1, 2]).view(1, 1, 8)
    liver = certified_dice(prediction, label, NAMES)[0]["liver"]
    assert liver["abstentions_wrong"] == 4 / 7 and liver["lower_bound"] == 4 / 9 and liver["upper_bound"] == 6 / 8
    assert (liver["abstained_in_organ"], liver["abstained_elsewhere"]) == (1, 2)


def test_an_absent_organ_is_not_scored_unless_it_may_be_invented():
    label = torch.zeros(3, 1, 4, dtype=torch.long)
    prediction = torch.tensor([[0, 0, 0, 0], [0, 0, 0, -1], [0, 0, 0, 1]]).view(3, 1, 4)
    nothing, may_be, invented = (scores["liver"] for scores in certified_dice(prediction, label, NAMES))
    assert math.isnan(nothing["lower_bound"]) and math.isnan(nothing["abstentions_wrong"])
    assert may_be["lower_bound"] == 0.0 and math.isnan(may_be["abstentions_wrong"])
    assert invented["lower_bound"] == 0.0 and invented["abstentions_wrong"] == 0.0


def test_a_case_does_not_depend_on_its_batch_and_unnamed_classes_count_as_other():
    prediction, label = random_label((3, 1, 5, 5), classes=5, seed=3) - 1, random_label((3, 1, 5, 5), classes=9, seed=4)
    whole = certified_dice(prediction, label, {1: "liver", 2: "spleen"})
    for case in range(3):
        assert certified_dice(prediction[case : case + 1], label[case : case + 1], NAMES)[0] == whole[case]


def test_smoothed_dice_under_attack_stays_within_the_bounds():
    """Each voxel of this network depends on itself: the strongest attack moves one voxel by the radius."""
    image = random_image((1, 1, 16, 16)) - 0.5
    label = (image > 0.05).long()
    found = CertifiedSegmentationInferer(sigma=0.1, n=100, copies_at_once=20).certify(image, LinearNetwork())
    scores = certified_dice(found, label, ["background", "organ"])[0]["organ"]
    assert 0.0 < scores["lower_bound"] < scores["upper_bound"] <= 1.0
    for sign in (-1.0, 1.0):
        spread = sign * torch.full_like(image, found.image_radius / 16)  # L2 norm equals the radius
        attacked = (image + spread > 0).flatten().long().tolist()
        value = dice(attacked, label.flatten().tolist(), 1)
        assert scores["lower_bound"] <= value <= scores["upper_bound"]


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), "channel by channel"),
        (torch.zeros(1, 1, 4), torch.zeros(1, 1, 5), "same shape"),
        (torch.full((1, 1, 4), -2), torch.zeros(1, 1, 4), "classes or -1"),
        (torch.zeros(1, 1, 4), torch.full((1, 1, 4), -1), "label classes >= 0"),
    ],
)
def test_bad_maps_are_refused(prediction, label, message):
    with pytest.raises(ValueError, match=message):
        certified_dice(prediction, label, NAMES)
