# SPDX-License-Identifier: Apache-2.0
"""What the first votes pick: classes from coarse to fine, and the voxels that matter."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.inferers.class_selection import check_focus, focus_mask, selected_groups
from monai_adversarial.metrics import ClassHierarchy

HIERARCHY = ClassHierarchy(["background", "left", "right"], [{"kidney": ["left", "right"]}])


def test_the_best_group_wins_before_its_best_member():
    counts = torch.tensor([[4, 9], [3, 1], [3, 0]], dtype=torch.int16).view(1, 3, 2)
    (classes, kidneys), lookups = selected_groups(counts, 10, "softmax", HIERARCHY)
    assert classes.flatten().tolist() == [1, 0] and kidneys.flatten().tolist() == [1, 0]
    assert classes.shape == (1, 1, 2) and classes.dtype == torch.int16
    assert [table.tolist() for table in lookups] == [[0, 1, 2], [0, 1, 1]]
    ((plain,), _) = selected_groups(counts, 10, "softmax", None)
    assert plain.flatten().tolist() == [0, 0]


def test_organs_and_their_neighbors_matter():
    counts = torch.zeros(1, 2, 7, dtype=torch.int16)
    counts[0, 1, 3] = 1  # one copy is enough
    assert focus_mask("organs", counts, "softmax", 0).flatten().tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert focus_mask("organs", counts, "softmax", 2).flatten().tolist() == [0, 1, 1, 1, 1, 1, 0]
    yes = torch.zeros(1, 2, 7, dtype=torch.int16)
    yes[0, 0, 0] = 1  # with sigmoid, channel 0 is an organ as well
    assert focus_mask("organs", yes, "sigmoid", 0).flatten().tolist() == [1, 0, 0, 0, 0, 0, 0]
    own = focus_mask(lambda votes: votes[:, :1] == 0, yes, "sigmoid", 0)
    assert own.flatten().tolist() == [0, 1, 1, 1, 1, 1, 1]


def test_a_bad_focus_is_refused():
    with pytest.raises(ValueError, match="focus must be 'organs', a callable of the first votes, or None, got 'liver'"):
        check_focus("liver")
    with pytest.raises(ValueError, match=r"focus must return a mask of shape \(1, 1, 7\), got \(1, 2, 7\)"):
        focus_mask(lambda votes: votes > 0, torch.zeros(1, 2, 7), "softmax", 0)
