# SPDX-License-Identifier: Apache-2.0
"""Coordinate descent: it descends, it learns what linear classifiers can and cannot, its search is exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_adversarial.networks.coordinate_descent import _best_threshold, train_by_coordinate_descent
from monai_adversarial.networks.sign_activation import SignActivationHead
from tests.helpers import random_image


def points(count: int = 200, features: int = 2, seed: int = 0) -> torch.Tensor:
    return 2 * random_image((count, features), seed) - 1


def exclusive_or(count: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    x = points(count, seed=seed)
    x = x + 0.1 * x.sign()  # a gap between the quadrants
    return x, (x[:, 0] * x[:, 1] > 0).long()


def accuracy(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float((network(x).argmax(dim=1) == y).float().mean())


def logistic_regression(x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    network = nn.Linear(x.shape[1], 2)
    nn.init.zeros_(network.weight)
    optimizer = torch.optim.LBFGS(network.parameters(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return network


@pytest.mark.parametrize("loss", ["zero_one", "cross_entropy"])
@pytest.mark.parametrize("classes", [2, 4])
def test_the_loss_of_a_fixed_batch_never_rises_and_falls_in_the_end(loss, classes):
    x = points(60, 3)
    y = torch.randint(classes, (60,), generator=torch.Generator().manual_seed(1))  # nothing to learn: many refusals
    head = SignActivationHead(3, 10, classes)
    history = train_by_coordinate_descent(head, x, y, steps=120, batch_size=None, loss=loss)
    assert history.shape == (120, 2)
    assert bool((history[1:, 0] == history[:-1, 1]).all()) and bool((history[:, 1] <= history[:, 0]).all())
    assert 0 < int((history[:, 1] < history[:, 0]).sum()) < 120
    assert float(history[-1, 1]) < float(history[0, 0])
    with torch.no_grad():
        logits = head(x)
    final = (logits.argmax(1) != y).double().mean() if loss == "zero_one" else nn.functional.cross_entropy(logits, y)
    assert float(history[-1, 1]) == pytest.approx(float(final), abs=1e-6)


@pytest.mark.parametrize("loss", ["zero_one", "cross_entropy"])
def test_random_batches_descend_on_each_batch(loss):
    x, y = exclusive_or()
    history = train_by_coordinate_descent(SignActivationHead(2, 6), x, y, steps=60, batch_size=50, loss=loss)
    assert bool((history[:, 1] <= history[:, 0]).all()) and bool((history[:, 1] < history[:, 0]).any())


@pytest.mark.parametrize("loss", ["zero_one", "cross_entropy"])
def test_it_separates_what_logistic_regression_can(loss):
    x = points(300, 5)
    y = (x @ torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0]) > 0.2).long()
    keep = (x @ torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0]) - 0.2).abs() > 0.3
    x, y = x[keep], y[keep]
    assert accuracy(logistic_regression(x, y), x, y) == 1.0
    head = SignActivationHead(5, 8)
    train_by_coordinate_descent(head, x, y, steps=400, batch_size=None, loss=loss)
    assert accuracy(head, x, y) >= 0.98


@pytest.mark.parametrize("seed", range(3))
def test_it_learns_exclusive_or_which_logistic_regression_cannot(seed):
    x, y = exclusive_or()
    assert accuracy(logistic_regression(x, y), x, y) < 0.7
    head = SignActivationHead(2, 20, seed=seed)
    train_by_coordinate_descent(head, x, y, steps=400, batch_size=100, seed=seed)
    assert accuracy(head, x, y) >= 0.95
    assert accuracy(head, *exclusive_or(seed=5)) >= 0.9


def test_zero_one_loss_learns_exclusive_or_from_one_of_three_seeds():
    x, y = exclusive_or()
    found = []
    for seed in range(3):
        head = SignActivationHead(2, 10, seed=seed)
        train_by_coordinate_descent(head, x, y, steps=500, batch_size=50, loss="zero_one", seed=seed)
        found.append(accuracy(head, x, y))
    assert max(found) >= 0.95


def test_best_threshold_is_that_of_a_search_over_all():
    projections = points(30, 4).round(decimals=1)  # with ties
    above, below = random_image((30,), 1), random_image((30,), 2)
    costs = []
    for column in projections.T:
        levels = column.unique()
        costs += [float(torch.where(column > t, above, below).sum()) for t in (levels[1:] + levels[:-1]) / 2]
    candidate, threshold = _best_threshold(projections, above, below)
    found = torch.where(projections[:, candidate] >= threshold, above, below).sum()
    assert float(found) == pytest.approx(min(costs)) and not bool((projections == threshold).any())


def test_identical_projections_have_no_threshold():
    _, threshold = _best_threshold(torch.ones(5, 3), torch.ones(5), torch.zeros(5))
    assert bool(torch.isinf(threshold))
    head = SignActivationHead(2, 3)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    train_by_coordinate_descent(head, torch.ones(6, 2), torch.tensor([0, 1] * 3), steps=30, loss="zero_one")
    assert bool(torch.isfinite(torch.cat([value.flatten() for value in head.state_dict().values()])).all())
    assert torch.equal(head.weight, before["weight"])


def test_rows_keep_length_one_and_the_same_seed_gives_the_same_head():
    x, y = exclusive_or()
    state = torch.get_rng_state()
    heads = [SignActivationHead(2, 5) for _ in range(3)]
    for head, seed in zip(heads, (0, 0, 1), strict=True):
        train_by_coordinate_descent(head, x, y, steps=40, batch_size=100, seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(heads[0].weight, heads[1].weight) and not torch.equal(heads[0].weight, heads[2].weight)
    for rows in (heads[0].weight, heads[0].output_weight):
        torch.testing.assert_close(rows.detach().norm(dim=1), torch.ones(len(rows)))
    assert heads[0].weight.requires_grad


def test_voxels_are_samples():
    x, y = exclusive_or(2 * 3 * 4 * 5)
    volume, label = x.view(2, 3, 4, 5, 2).movedim(-1, 1), y.view(2, 1, 3, 4, 5)
    heads = [SignActivationHead(2, 5) for _ in range(3)]
    train_by_coordinate_descent(heads[0], x, y, steps=30)
    train_by_coordinate_descent(heads[1], volume, label, steps=30)
    train_by_coordinate_descent(heads[2], volume, label[:, 0], steps=30)
    assert torch.equal(heads[0].weight, heads[1].weight) and torch.equal(heads[0].weight, heads[2].weight)


def test_class_weights_decide_what_cannot_be_told_apart():
    x = points(100)
    y = (torch.arange(100) % 10 == 0).long()  # one in ten, at random places
    found = []
    for weights in (None, (1.0, 30.0)):
        head = SignActivationHead(2, 2)
        train_by_coordinate_descent(head, x, y, steps=100, loss="zero_one", class_weights=weights)
        found.append(float((head(x).argmax(dim=1) == 1).float().mean()))
    assert found[0] < 0.2 < 0.5 < found[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": torch.zeros(4, 3)}, r"\(batch, 2"),
        ({"labels": torch.zeros(5)}, "labels must have shape"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, "from 0 to 1, got 0 to 2"),
        ({"features": torch.full((4, 2), torch.nan)}, "finite"),
        ({"loss": "hinge"}, "loss must be one of"),
        ({"increment": 0.0}, "increment"),
        ({"class_weights": [1.0]}, "2 numbers"),
    ],
)
def test_bad_use_is_refused(arguments, message):
    given = {"features": torch.rand(4, 2), "labels": torch.tensor([0, 1, 1, 0]), **arguments}
    with pytest.raises(ValueError, match=message):
        train_by_coordinate_descent(SignActivationHead(2, 3), **given)


@pytest.mark.gpu
def test_it_learns_on_a_gpu():
    x, y = exclusive_or()
    head = SignActivationHead(2, 20).cuda()
    history = train_by_coordinate_descent(head, x.cuda(), y.cuda(), steps=400, batch_size=100)
    assert history.is_cuda and accuracy(head, x.cuda(), y.cuda()) >= 0.95
