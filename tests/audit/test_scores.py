# SPDX-License-Identifier: Apache-2.0
"""Scores of organs against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.audit.scores import score_organs
from monai_adversarial.audit.segmentation import Segmentation

AFFINE = torch.diag(torch.tensor([2.0, 2.0, 2.5, 1.0], dtype=torch.float64))
ORGANS = {1: "liver", 2: "bone"}


def _boxes(liver: slice, bone: slice | None = None) -> torch.Tensor:
    values = torch.zeros(12, 12, 12, dtype=torch.int32)
    values[liver, 2:8, 2:8] = 1
    if bone is not None:
        values[bone, 9:11, 2:8] = 2
    return values


def test_overlap_volume_and_surface_of_a_shifted_box() -> None:
    reference = Segmentation(_boxes(slice(2, 8), slice(2, 8)), affine=AFFINE)
    prediction = Segmentation(_boxes(slice(3, 9), slice(2, 8)), affine=AFFINE)
    scores = score_organs(prediction, reference, ORGANS, surface_tolerance_mm=2.0)
    assert scores["liver"]["dice"] == pytest.approx(5 / 6)
    assert scores["liver"]["hd95_mm"] == pytest.approx(2.0)
    assert scores["liver"]["volume_ml"] == pytest.approx(6**3 * 10 / 1000)
    assert scores["liver"]["surface_dice"] == 1.0  # nothing is further than 2 mm away
    assert scores["bone"]["dice"] == scores["bone"]["surface_dice"] == 1.0
    close = score_organs(prediction, reference, ORGANS, surface_tolerance_mm=1.0)["liver"]["surface_dice"]
    # The two faces across the shift are 2 mm off, the rest of the surfaces lies within.
    assert 0.5 < close < 1.0


def test_missed_and_absent_organs() -> None:
    reference = Segmentation(_boxes(slice(2, 8), slice(2, 8)), affine=AFFINE)
    missed = score_organs(Segmentation(_boxes(slice(2, 8)), affine=AFFINE), reference, ORGANS, 2.0)["bone"]
    assert missed["dice"] == missed["surface_dice"] == 0.0 and math.isnan(missed["hd95_mm"])
    assert missed["volume_ml"] == 0.0 and missed["reference_ml"] > 0
    both = Segmentation(_boxes(slice(2, 8)), affine=AFFINE)
    absent = score_organs(both, both, ORGANS, 2.0)["bone"]
    assert math.isnan(absent["dice"]) and math.isnan(absent["surface_dice"])


def test_masks_that_overlap_score_as_each_alone() -> None:
    reference, prediction = _boxes(slice(2, 8), slice(2, 8)), _boxes(slice(3, 9), slice(2, 8))
    masks = [
        Segmentation(torch.stack([volume == 1, (volume == 1) | (volume == 2)]).int(), True, AFFINE)
        for volume in (prediction, reference)
    ]
    scores = score_organs(*masks, {0: "liver", 1: "all"}, 2.0)
    assert scores["liver"]["dice"] == pytest.approx(5 / 6)
    whole = 2 * (5 * 36 + 72) / (2 * (6 * 36 + 72))
    assert scores["all"]["dice"] == pytest.approx(whole)


def test_voxels_to_ignore_count_nowhere() -> None:
    reference, prediction = _boxes(slice(2, 8)), _boxes(slice(3, 9))
    reference[8:] = 255
    reference[:3] = 255
    scores = score_organs(
        Segmentation(prediction, affine=AFFINE), Segmentation(reference, affine=AFFINE), {1: "liver"}, 2.0, 255
    )
    assert scores["liver"]["dice"] == 1.0


def test_other_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="must be on one grid"):
        score_organs(Segmentation(torch.zeros(3, 3, 3)), Segmentation(torch.zeros(4, 4, 4)), ORGANS, 2.0)
