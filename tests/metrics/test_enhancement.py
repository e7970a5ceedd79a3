# SPDX-License-Identifier: Apache-2.0
"""Enhancement attacks: what they gain, and the check of a reviewer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_adversarial.metrics import EnhancementGain, check_advantages
from tests.metrics.attacked import targeted, untargeted

PATIENTS = [str(number) for number in range(8)]


def test_the_truth_as_target_raises_the_score_and_the_images_stay_alike() -> None:
    result = targeted()
    metric = EnhancementGain()
    row = metric.add(result)[0]
    assert row[2] == row[1] - row[0] > 0
    expected = np.corrcoef(result.image.flatten().numpy(), result.adversarial.flatten().numpy())[0, 1]
    assert float(row[3]) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="targeted=True whose label is the truth"):
        metric.add(untargeted())
    with pytest.raises(ValueError, match="correlation must hold one number per case"):
        metric(torch.tensor([0.5]), torch.tensor([0.4]))


def test_an_advantage_that_is_only_in_the_submitted_data_is_found() -> None:
    skill = {patient: 0.6 + 0.01 * int(patient) for patient in PATIENTS}
    better = {patient: value + 0.1 for patient, value in skill.items()}
    enhanced = {patient: value + 0.3 + 0.002 * int(patient) for patient, value in skill.items()}
    recomputed = {"ours": skill, "theirs": better, "old": {patient: value - 0.1 for patient, value in skill.items()}}
    ours, old, fair = check_advantages(recomputed | {"ours": enhanced}, recomputed)
    assert (ours["first"], ours["second"], ours["n"]) == ("ours", "theirs", 8)
    assert ours["recomputed"] == pytest.approx(-0.1) and ours["reported"] == pytest.approx(0.207) and ours["flips"]
    assert not old["flips"] and old["reported"] == pytest.approx(0.407)  # it was better before, by less
    # 2 / 2**8 for each of the two changed pairs, times 3 and then at least that
    assert ours["p_holm"] == pytest.approx(3 * 2 / 2**8) and old["p_holm"] == pytest.approx(3 * 2 / 2**8)
    assert fair["p_holm"] == 1.0 and not fair["flips"]


def test_another_preprocessing_of_all_is_no_sign() -> None:
    scores = {"ours": dict.fromkeys(PATIENTS, 0.75), "theirs": dict.fromkeys(PATIENTS, 0.5)}
    lower = {name: {patient: value - 0.25 for patient, value in own.items()} for name, own in scores.items()}
    (row,) = check_advantages(scores, lower)
    assert row["p_holm"] == 1.0 and not row["flips"] and row["reported"] == row["recomputed"] == 0.25
    with pytest.raises(ValueError, match="the same two or more methods"):
        check_advantages(scores, {"ours": {}})
