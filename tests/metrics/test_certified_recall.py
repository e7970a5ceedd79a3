# SPDX-License-Identifier: Apache-2.0
"""Certified recall and found lesions against fixtures by hand and against all outcomes of the abstained voxels."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_adversarial.metrics import CertifiedRecallMetric, certified_recall

NAMES = ["background", "liver", "lesion"]


def row(*values: int) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, -1)


def found_lesions(prediction: tuple[int, ...], label: tuple[int, ...], share: float) -> int:
    """Runs of class 2 in a row of which ``share``, and at least one voxel, is predicted."""
    runs, start = [], None
    for place, value in enumerate((*label, 0)):
        if value == 2 and start is None:
            start = place
        elif value != 2 and start is not None:
            runs.append(range(start, place))
            start = None
    return sum(sum(prediction[i] == 2 for i in run) >= max(share * len(run), 1) for run in runs)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-1, 2), st.sampled_from([0, 2])), min_size=8, max_size=8).filter(
        lambda pairs: sum(p == -1 for p, _ in pairs) <= 4
    ),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_bounds_are_the_worst_and_best_of_all_outcomes(pairs, share):
    prediction, label = zip(*pairs, strict=True)
    scores = certified_recall(row(*prediction), row(*label), NAMES, spacing=10.0, found_share=share)[0]["lesion"]
    holes = [i for i, p in enumerate(prediction) if p == -1]
    volumes, lesions, invented = [], [], []
    for filling in itertools.product(range(3), repeat=len(holes)):
        filled = list(prediction)
        for where, value in zip(holes, filling, strict=True):
            filled[where] = value
        volumes.append(sum(p == q == 2 for p, q in zip(filled, label, strict=True)))
        lesions.append(found_lesions(tuple(filled), label, share))
        invented.append(sum(p == 2 and q != 2 for p, q in zip(filled, label, strict=True)))
    # 10 of the one unit that a row has: a voxel is 0.01 "ml"
    assert scores["found_ml"] == pytest.approx(0.01 * min(volumes))
    assert scores["possible_ml"] == pytest.approx(0.01 * max(volumes))
    assert scores["invented_ml"] == pytest.approx(0.01 * max(invented))
    assert (scores["lesions_found"], scores["lesions_possible"]) == (min(lesions), max(lesions))


def test_volumes_and_lesions_by_hand():
    label = torch.zeros(1, 1, 6, 6, 6, dtype=torch.long)
    label[..., 0:2, 0:2, 0:2] = 2  # 8 voxels
    label[..., 4:6, 4:6, 4:5] = 2  # 4 voxels
    label[..., 0, 5, 5] = 2  # 1 voxel
    prediction = torch.full_like(label, -1)
    prediction[..., 0, 0, 0:2] = 2  # a quarter of the first
    prediction[..., 4:6, 4:6, 4:5] = 0  # the second is certain to be missed
    prediction[..., 3, 3, 3] = 2  # invented
    image = MetaTensor(label, affine=torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0])))  # 0.02 ml a voxel

    found = certified_recall(prediction, image, NAMES, found_share=0.25)[0]["lesion"]
    assert found["reference_ml"] == pytest.approx(13 * 0.02)
    assert found["found_ml"] == pytest.approx(2 * 0.02) and found["recall"] == pytest.approx(2 / 13)
    assert found["possible_ml"] == pytest.approx(9 * 0.02)
    assert found["invented_ml"] == pytest.approx((216 - 13) * 0.02)
    assert (found["lesions"], found["lesions_found"], found["lesions_possible"]) == (3, 1, 2)
    assert found["missed_lesion_rate"] == pytest.approx(2 / 3)

    stricter = certified_recall(prediction, image, NAMES, found_share=0.26)[0]["lesion"]
    assert stricter["lesions_found"] == 0 and stricter["found_ml"] == found["found_ml"]
    larger = certified_recall(prediction, image, NAMES, smallest_ml=0.08)[0]["lesion"]
    assert larger["lesions"] == 2 and larger["reference_ml"] == found["reference_ml"]


def test_connectivity_decides_what_is_one_lesion():
    label = torch.zeros(1, 1, 2, 2, dtype=torch.long)
    label[..., 0, 0] = label[..., 1, 1] = 2  # touch at a corner
    for connectivity, lesions in ((None, 1), (2, 1), (1, 2)):
        scores = certified_recall(label, label, NAMES, spacing=1.0, connectivity=connectivity)[0]["lesion"]
        assert scores["lesions"] == scores["lesions_found"] == lesions
    with pytest.raises(ValueError, match="connectivity must be an integer from 1 to 2 or None, got 3"):
        certified_recall(label, label, NAMES, spacing=1.0, connectivity=3)


def test_an_absent_organ_has_no_recall():
    scores = certified_recall(row(0, -1), row(0, 0), NAMES, spacing=10.0)[0]["liver"]
    assert math.isnan(scores["recall"]) and math.isnan(scores["missed_lesion_rate"])
    assert scores["invented_ml"] == pytest.approx(0.01) and scores["lesions"] == 0


def test_metric_pools_lesions_and_averages_volumes_over_cases_that_have_the_organ():
    metric = CertifiedRecallMetric(NAMES, spacing=10.0, found_share=1.0)
    metric(row(2, -1, 0, 2), row(2, 2, 0, 2))  # recall 2/3; one lesion of two
    metric([row(2, 0, 0)[0], row(0, 0, -1)[0]], [row(2, 0, 0)[0], row(0, 0, 0)[0]])  # recall 1; no lesion there
    found = metric.aggregate()
    assert found["lesion_recall"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["lesion_least_recall"] == pytest.approx(2 / 3)
    assert [found[f"lesion_{key}"] for key in ("lesions", "lesions_found", "lesions_possible")] == [3, 2, 3]
    assert found["lesion_missed_lesion_rate"] == pytest.approx(1 / 3)
    assert found["lesion_found_ml"] == pytest.approx(0.015)
    assert found["lesion_invented_ml"] == pytest.approx(0.01 / 3)
    assert math.isnan(found["liver_least_recall"])
    assert metric.cases()["lesion_recall"] == pytest.approx([2 / 3, 1, math.nan], nan_ok=True)
    metric.reset()
    with pytest.raises(ValueError, match="CertifiedRecallMetric has no cases yet"):
        metric.aggregate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "spacing is missing: volumes are in ml"),
        ({"spacing": 1.0, "found_share": 1.5}, "found_share must be a number from 0 to 1"),
        ({"spacing": 1.0, "smallest_ml": -1.0}, "smallest_ml must be a finite number"),
        ({"spacing": 0.0}, "spacing must be finite and > 0"),
        ({"spacing": 1.0, "class_names": ["background"]}, "class_names must give the background first"),
    ],
)
def test_bad_arguments_stop_early(arguments, message):
    with pytest.raises(ValueError, match=message):
        certified_recall(row(0, 1), row(0, 1), **({"class_names": NAMES} | arguments))


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (row(0, 1), row(0, 1, 1), "same shape"),
        (row(0, -2), row(0, 1), "classes or -1"),
        (row(0, 1), row(0, 1) * 0.5, "label must hold class indices"),
        (row(0, 1) * math.nan, row(0, 1), "certified must hold class indices"),
    ],
)
def test_bad_maps_are_refused(prediction, label, message):
    with pytest.raises(ValueError, match=message):
        certified_recall(prediction, label, NAMES, spacing=1.0)
