# SPDX-License-Identifier: Apache-2.0
"""Dice and HD95 per organ against closed forms and MONAI's metrics on whole volumes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from monai.networks import one_hot

from monai_adversarial.metrics import mean_score, organ_names, score_segmentation

NAMES = ["background", "liver", "spleen"]


def box(shape: tuple[int, ...], *edges: tuple[int, int], value: int = 1) -> np.ndarray:
    volume = np.zeros(shape, np.uint8)
    volume[tuple(slice(*edge) for edge in edges)] = value
    return volume


def test_a_shifted_box_has_the_dice_and_distance_of_its_shift_in_mm() -> None:
    reference = box((20, 20, 20), (4, 14), (5, 9), (5, 9))
    prediction = np.roll(reference, 2, axis=0)
    scores = score_segmentation(prediction, reference, (3.0, 1.0, 1.0), NAMES)["liver"]
    assert scores["dice"] == pytest.approx(0.8)
    assert scores["hd95_mm"] == pytest.approx(6.0)
    assert scores["reference_voxels"] == scores["predicted_voxels"] == 160


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_monai_on_the_whole_volume(seed: int) -> None:
    generator = np.random.default_rng(seed)
    reference = box((16, 14, 12), (2, 9), (2, 8), (0, 7)) + box((16, 14, 12), (9, 16), (3, 9), (2, 10), value=2)
    prediction = np.where(generator.random(reference.shape) < 0.1, generator.integers(0, 3, reference.shape), reference)
    spacing = (0.7, 1.3, 2.5)
    one_hots = [one_hot(torch.as_tensor(v)[None, None].long(), 3) for v in (prediction, reference)]
    dice = compute_dice(*one_hots, include_background=False)[0]
    distance = compute_hausdorff_distance(*one_hots, include_background=False, percentile=95, spacing=spacing)[0]
    found = score_segmentation(prediction, reference, spacing, NAMES)
    for index, name in enumerate(NAMES[1:]):
        assert found[name]["dice"] == pytest.approx(float(dice[index]), abs=1e-6)
        assert found[name]["hd95_mm"] == pytest.approx(float(distance[index]), abs=1e-5)


def test_the_rule_for_empty_organs() -> None:
    shape = (8, 8, 8)
    nothing, liver, spleen = (
        np.zeros(shape, int),
        box(shape, (1, 4), (1, 4), (1, 4)),
        box(shape, (5, 7), (5, 7), (5, 7), value=2),
    )
    spacing = (1.0, 1.0, 1.0)

    perfect = score_segmentation(liver, liver, spacing, NAMES)
    assert perfect["liver"]["dice"] == 1.0 and perfect["liver"]["hd95_mm"] == 0.0
    assert math.isnan(perfect["spleen"]["dice"]) and math.isnan(perfect["spleen"]["hd95_mm"])
    assert mean_score(perfect) == {"dice": 1.0, "hd95_mm": 0.0, "missed": [], "invented": []}

    invented = score_segmentation(liver + spleen, liver, spacing, NAMES)
    assert invented["spleen"]["dice"] == 0.0 and math.isnan(invented["spleen"]["hd95_mm"])
    assert mean_score(invented) == {"dice": 0.5, "hd95_mm": 0.0, "missed": [], "invented": ["spleen"]}

    missed = score_segmentation(nothing, liver + spleen, spacing, NAMES)
    assert [missed[name]["dice"] for name in NAMES[1:]] == [0.0, 0.0]
    assert mean_score(missed)["missed"] == ["liver", "spleen"] and math.isnan(mean_score(missed)["hd95_mm"])

    empty = mean_score(score_segmentation(nothing, nothing, spacing, NAMES))
    assert math.isnan(empty["dice"]) and not empty["missed"] and not empty["invented"]


def test_tensors_with_leading_dimensions_are_accepted_and_two_dimensions_work() -> None:
    reference = torch.as_tensor(box((1, 1, 8, 8), (0, 1), (0, 1), (2, 6), (2, 6)))
    scores = score_segmentation(reference.float(), reference, (2.0, 2.0), NAMES)
    assert scores["liver"]["dice"] == 1.0


@pytest.mark.parametrize(
    ("prediction", "spacing", "message"),
    [
        (np.zeros((4, 4, 5), int), (1, 1, 1), "same shape"),
        (np.full((4, 4, 4), 0.5), (1, 1, 1), "class indices"),
        (np.full((4, 4, 4), np.nan), (1, 1, 1), "class indices"),
        (np.zeros((4, 4, 4), int), (1, 1), "one class map with 2"),
        (np.zeros((4, 4, 4), int), (1, 0, 1), "spacing must give 2 or 3 values"),
        (np.zeros((2, 4, 4, 4), int), (1, 1, 1), "one class map"),
    ],
)
def test_input_that_does_not_fit_is_refused(prediction: np.ndarray, spacing: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score_segmentation(prediction, np.zeros((4, 4, 4), int), spacing, NAMES)


def test_names_come_from_a_list_or_a_channel_definition() -> None:
    assert organ_names(NAMES) == {1: "liver", 2: "spleen"}
    assert organ_names({"0": "background", "2": "spleen", "1": "liver"}) == {1: "liver", 2: "spleen"}
    for bad in ([], ["background"], {"a": "liver"}, ["background", "liver", "liver"]):
        with pytest.raises(ValueError, match="class_names"):
            organ_names(bad)


@pytest.mark.parametrize("names", [["liver", "spleen", "background"], {"0": "liver", "1": "BG"}])
def test_a_background_that_is_not_the_first_is_refused(names: Any) -> None:
    with pytest.raises(ValueError, match="class 0 is the background, which is not scored: put it first"):
        organ_names(names)
    assert organ_names(["background", "background enhancement"]) == {1: "background enhancement"}
