# SPDX-License-Identifier: Apache-2.0
"""The difference of logits ratio and the accuracy of images, against their definitions."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.classifier_objectives import RECORD, table
from benchmarks.doc_tables import DOCS
from monai_adversarial.attacks.objectives import DLR, Progress, Target
from monai_adversarial.metrics.accuracy import share_correct

PROGRESS = Progress(0, 1)


def logits(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_dlr_is_the_papers_formula() -> None:
    values, index = logits(5, 4), torch.tensor([0, 1, 2, 3, 0])
    ordered, others = values.sort(dim=1).values, values.clone()
    rows = torch.arange(5)
    others[rows, index] = -torch.inf
    expected = -(values[rows, index] - others.amax(dim=1)) / (ordered[:, -1] - ordered[:, -3])
    target = Target(4, index=index[:, None])
    assert torch.allclose(DLR().value(values[..., None], target, PROGRESS), expected)
    wanted = (others.amax(dim=1) - values[rows, index]) / (ordered[:, -1] - (ordered[:, -3] + ordered[:, -4]) / 2)
    assert torch.allclose(DLR().value(values[..., None], target, PROGRESS, targeted=True), wanted)


def test_dlr_of_voxels_is_their_mean_and_scales_with_nothing() -> None:
    values, index = logits(2, 3, 4, 5), torch.arange(40).view(2, 4, 5) % 3
    target = Target(3, index=index)
    each = [
        DLR().value(values[:, :, i, j, None], Target(3, index=index[:, i, j, None]), PROGRESS)
        for i in range(4)
        for j in range(5)
    ]
    mean = DLR().value(values, target, PROGRESS)
    assert torch.allclose(mean, torch.stack(each).mean(dim=0))
    assert torch.allclose(DLR().value(values * 1000 + 3, target, PROGRESS), mean)
    soft = target.with_soft(target.one_hot(torch.float64))
    assert torch.allclose(DLR().value(values, soft, PROGRESS), mean)


def test_dlr_has_the_right_gradient() -> None:
    values, target = logits(2, 4, 3).requires_grad_(), Target(4, index=torch.tensor([[0, 1, 2], [3, 0, 1]]))
    assert torch.autograd.gradcheck(lambda x: DLR().value(x, target, PROGRESS), values)
    assert torch.autograd.gradcheck(lambda x: DLR().value(x, target, PROGRESS, True), values)


def test_dlr_needs_three_exclusive_classes() -> None:
    index = torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="needs at least 3 exclusive classes .softmax., got 2: pass"):
        DLR().value(logits(1, 2, 1), Target(2, index=index), PROGRESS)
    three = Target(3, index=index)
    values = logits(1, 3, 1)
    assert DLR().value(values, three, PROGRESS, targeted=True) == DLR().value(values, three, PROGRESS)
    with pytest.raises(ValueError, match="got 2"):
        DLR().value(logits(1, 3, 1), Target(3, index=index, activation="sigmoid"), PROGRESS)


def test_share_correct_counts_decisions() -> None:
    found = torch.tensor([[2], [0], [1]])
    true = torch.tensor([[2], [1], [1]])
    valid = torch.tensor([[True], [True], [False]])
    score = share_correct(found, true, 3, "softmax", valid=valid)
    assert score[:2].tolist() == [1.0, 0.0] and score[2].isnan()
    one_hot = torch.nn.functional.one_hot(true[:, 0], 3)
    assert torch.equal(share_correct(found, one_hot, 3, "softmax"), share_correct(found, true, 3, "softmax"))
    masks = torch.tensor([[1, 0, 1], [0, 0, 0]])
    assert share_correct(masks, torch.tensor([[1, 1, 1], [0, 0, 1]]), 3, "sigmoid").tolist() == pytest.approx(
        [2 / 3] * 2
    )
    assert share_correct(masks, torch.tensor([[2], [1]]), 3, "sigmoid", [0, 2]).tolist() == [0.5, 1.0]


def test_the_page_shows_the_measured_figures() -> None:
    """The default of classifiers is the margin because no other objective leaves much less, at any confidence."""
    rows = json.loads(RECORD.read_text(encoding="utf-8"))
    assert table(rows) in (DOCS / "classification.md").read_text(encoding="utf-8")
    others = ("cross_entropy", "margin, clipped at 0", "dlr")
    for row in rows:
        assert row["PGD margin"] <= min(row.get(f"PGD {other}", 1.0) for other in others) + 0.02
    assert max(row["PGD cross_entropy"] - row["PGD margin"] for row in rows) > 0.5
