# SPDX-License-Identifier: Apache-2.0
"""Volume change, missed and invented organs and the drop per organ equal numbers computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from monai_adversarial.data.example import EXAMPLE_CLASSES
from monai_adversarial.metrics import OrganDrop, OrganErrors, OrganPresence, SuccessRate, VolumeChange, organ_dice
from tests.metrics.attacked import moved, targeted

NAMES = ["background", "liver", "spleen"]
SPACING = (0.5, 2.0, 5.0)  # 0.005 ml per voxel


def line(*classes: int) -> torch.Tensor:
    """A volume of one case with these classes along its last axis."""
    return torch.tensor(classes).view(1, 1, 1, 1, -1)


def test_volume_change_by_hand() -> None:
    metric = VolumeChange(NAMES)
    metric(line(1, 1, 1, 2, 0, 0), line(1, 1, 0, 0, 0, 0), spacing=SPACING)
    metric(line(1, 0, 0, 0, 0, 0), line(1, 1, 0, 0, 0, 2), spacing=SPACING)
    assert metric.columns[:2] == ("liver_change_ml", "liver_change_percent")
    expected = torch.tensor([[0.005, 50.0, 0.005, math.nan], [-0.005, -50.0, -0.005, -100.0]], dtype=torch.float64)
    torch.testing.assert_close(metric.get_buffer(), expected, equal_nan=True)
    assert metric.aggregate() == pytest.approx(
        {"liver_change_ml": 0.0, "liver_change_percent": 0.0, "spleen_change_ml": 0.0, "spleen_change_percent": -100.0}
    )


def test_what_the_anatomy_changed_itself_is_no_error_of_the_network() -> None:
    metric = VolumeChange(["background", "liver"])
    before, after = line(1, 1, 0, 0, 0), line(1, 1, 1, 0, 0)
    row = metric(line(1, 1, 1, 1, 1), before, spacing=SPACING, label=after, clean_label=before)
    assert row.tolist()[0] == pytest.approx([0.010, 100.0])  # grew by 3, the liver itself by 1 of 2 voxels
    with pytest.raises(ValueError, match="given together"):
        metric(after, before, spacing=SPACING, label=after)


def test_masks_that_overlap_are_organs_of_their_own() -> None:
    one, other = line(1, 1, 0, 0), line(0, 1, 1, 1)
    metric = VolumeChange(["liver", "lesion"], activation="sigmoid")
    row = metric(torch.cat([one, other], dim=1), torch.cat([other, other], dim=1), spacing=10.0)
    assert row.tolist()[0] == pytest.approx([-1.0, -100 / 3, 0.0, 0.0])
    one_hot = torch.cat([line(0, 0, 1, 1), one], dim=1)
    assert torch.equal(
        VolumeChange(["background", "liver"])(one_hot, one, spacing=1.0), torch.zeros(1, 2, dtype=torch.float64)
    )


def test_the_rule_for_missed_and_invented_organs() -> None:
    metric = OrganPresence(NAMES)
    label = torch.cat([line(1, 2, 0, 0), line(1, 1, 0, 0), line(1, 0, 0, 0), line(0, 0, 0, 0)])
    found = torch.cat([line(1, 2, 0, 0), line(2, 0, 0, 0), line(1, 1, 0, 0), line(0, 0, 0, 0)])
    metric(found, label)
    cases = metric.cases()
    assert cases["missed_liver"][:3] == [0.0, 1.0, 0.0] and math.isnan(cases["missed_liver"][3])
    assert cases["missed_spleen"][0] == 0.0 and all(math.isnan(value) for value in cases["missed_spleen"][1:])
    assert cases["invented_spleen"][1:] == [1.0, 0.0, 0.0] and math.isnan(cases["invented_spleen"][0])
    numbers = metric.aggregate()
    assert numbers["missed_rate"] == pytest.approx(1 / 4) and numbers["invented_rate"] == pytest.approx(1 / 4)
    assert numbers["missed_liver"] == pytest.approx(1 / 3) and numbers["invented_spleen"] == pytest.approx(1 / 3)


def test_specks_below_the_least_volume_are_no_organ() -> None:
    metric = OrganPresence(NAMES, minimum_ml=0.01)
    row = metric(line(1, 2, 2, 0), line(1, 1, 0, 0), spacing=SPACING)
    assert row[0, :1].tolist() == [1.0] and row[0, 3:].tolist() == [1.0]
    with pytest.raises(ValueError, match="spacing must be given in mm"):
        metric(line(1, 2, 2, 0), line(1, 1, 0, 0))


def test_drop_by_hand() -> None:
    metric = OrganDrop(NAMES, classes=["liver"])
    row = metric(line(1, 0, 0, 0), line(1, 1, 0, 0), clean=line(1, 1, 1, 0))
    # clean: 4/5, IoU 2/3; under attack: 2/3, IoU 1/2
    assert row.tolist()[0] == pytest.approx([0.8, 2 / 3, 0.8 - 2 / 3, 100 / 6, 2 / 3 - 1 / 2])
    invented = OrganDrop(NAMES)(line(0, 2, 0, 0), line(0, 0, 0, 0), clean=line(0, 0, 0, 0)).view(2, 5)
    assert bool(invented[0].isnan().all())
    assert invented[1, 1] == 0.0 and bool(invented[1, [0, 2, 3, 4]].isnan().all())


def test_errors_by_hand() -> None:
    metric = OrganErrors(NAMES)
    row = metric(line(0, 0, 1, 1), line(1, 1, 1, 0), spacing=SPACING, clean=line(1, 1, 1, 0))
    assert metric.columns[:6:5] == ("liver_precision", "liver_clean_precision")
    # from the prediction 0 and 1 voxels to the nearest of the organ, from the organ 2, 1 and 0
    assert row[0, :5].tolist() == pytest.approx([1 / 2, 1 / 3, 2 * 0.005, 0.005, 5.0 * 4 / 5])
    assert row[0, 5:10].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    nothing = row[0, 10:15].tolist()
    assert [math.isnan(value) for value in nothing] == [True, True, False, False, True] and nothing[2:4] == [0, 0]
    missed = metric(line(0, 0, 0, 2), line(1, 0, 0, 0), spacing=SPACING)
    assert missed[0, 1:4].tolist() == [0.0, 0.005, 0.0] and bool(missed[0, 5:10].isnan().all())
    assert missed[0, 10] == 0.0 and missed[0, 13] == 0.005 and math.isnan(missed[0, 11])


def test_errors_of_a_moved_anatomy_are_against_its_own_label() -> None:
    result = moved()
    metric = OrganErrors(EXAMPLE_CLASSES)
    metric.add(result)
    numbers = metric.aggregate()
    for when, found, true in (
        ("", result.prediction, result.label),
        ("clean_", result.clean_prediction, result.clean_label),
    ):
        right = int(((found == 2) & (true == 2)).sum())
        assert numbers[f"liver_{when}precision"] == pytest.approx(right / int((found == 2).sum()))
        assert numbers[f"liver_{when}missed_ml"] == pytest.approx((int((true == 2).sum()) - right) * 6**3 / 1000)
    with pytest.raises(ValueError, match="spacing must be given in mm"):
        metric(line(1), line(1))


def test_ignored_voxels_count_in_no_metric() -> None:
    label, found = line(1, 1, 255, 255), line(1, 0, 2, 2)
    assert OrganDrop(NAMES, ignore_index=255)(found, label, clean=found)[0, 1] == pytest.approx(2 / 3)
    assert OrganPresence(NAMES, ignore_index=255)(found, label)[0, 3] == 0.0
    row = VolumeChange(NAMES, ignore_index=255)(found, line(1, 1, 2, 2), spacing=1.0, label=label, clean_label=label)
    assert row[0, 2] == 0.0


def test_success_at_both_thresholds_by_hand() -> None:
    metric = SuccessRate(0.5, acceptable=0.1)
    score, clean = [0.44, 0.2, 0.3, 0.05, math.nan, 0.3], [0.9, 0.8, 0.5, 0.1, 0.9, math.nan]
    metric(torch.tensor(score, dtype=torch.float64), torch.tensor(clean, dtype=torch.float64))
    numbers = metric.aggregate()
    # half of each: 0.45, 0.4, 0.25; half of the mean 2.2 / 3: 0.367
    assert numbers["success_rate"] == pytest.approx(2 / 3) and numbers["success_rate_of_mean"] == pytest.approx(2 / 3)
    assert numbers["clean_score"] == pytest.approx(2.2 / 3) and numbers["score"] == pytest.approx(0.94 / 3)
    assert metric.cases()["success"][:3] == [1.0, 1.0, 0.0] and math.isnan(metric.cases()["success"][3])


def test_results_of_attacks_are_read_with_moved_labels() -> None:
    result = moved()
    assert not torch.equal(result.label, result.clean_label)
    drop = OrganDrop(EXAMPLE_CLASSES)
    row = drop.add(result)
    for place, organ in enumerate(EXAMPLE_CLASSES[1:]):
        pairs = ((result.clean_prediction, result.clean_label), (result.prediction, result.label))
        for column, (found, true) in enumerate(pairs):
            dice = organ_dice(found[0], true[0], {place + 1: organ}, 4, "softmax")[organ]
            assert float(row[0, 5 * place + column]) == pytest.approx(dice)
    voxels = [[int((part == 2).sum()) for part in (of, true)] for (of, true) in pairs]
    change = (voxels[1][0] - voxels[0][0]) - (voxels[1][1] - voxels[0][1])
    volume = VolumeChange(EXAMPLE_CLASSES)
    volume.add(result)
    assert volume.aggregate()["liver_change_ml"] == pytest.approx(change * 6**3 / 1000)
    presence = OrganPresence(EXAMPLE_CLASSES, minimum_ml=0.5)
    presence.add(result)
    success = SuccessRate()
    success.add(result)
    assert success.aggregate()["score"] == pytest.approx(float(result.adversarial_dice))
    with pytest.raises(ValueError, match="untargeted"):
        success.add(targeted())


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (line(1, 0), line(1, 0, 0), "y must be on the grid"),
        (line(1, 0).expand(1, 2, 1, 1, 2), line(1, 0), "y_pred must have shape"),
        (line(1, 0) * 0.5, line(1, 0), "whole numbers"),
        (line(1, 0), None, "y must be a segmentation"),
    ],
)
def test_input_that_does_not_fit_is_one_sentence(prediction: Any, label: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OrganPresence(NAMES)(prediction, label)


def test_without_a_voxel_size_there_are_no_milliliters() -> None:
    with pytest.raises(ValueError, match="spacing must be given in mm along each axis for VolumeChange"):
        VolumeChange(NAMES)(line(1, 0), line(1, 0))
