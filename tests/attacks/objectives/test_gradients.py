# SPDX-License-Identifier: Apache-2.0
"""Gradients against finite differences, in every mode."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.attacks.objectives import Dice, DiceCE, JensenShannon, Margin, Target, get_objective
from monai_adversarial.attacks.objectives.softmax_statistics import (
    _sums_by_class,
    _sums_in_order,
    class_sums,
    softmax_statistics,
)
from tests.attacks.objectives.cases import MODES, NAMES, PROGRESS, chosen_classes, random_logits, random_target

# Their weights are constants by definition: finite differences see them move. test_values has their gradient.
DETACHED = {"cospgd"}


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in DETACHED])
def test_gradient_of_the_logits(name: str, mode: str, targeted: bool, restricted: bool) -> None:
    logits = random_logits(mode).requires_grad_()
    target = random_target(mode, region=restricted, classes=chosen_classes(mode) if restricted else None)
    objective = get_objective(name)
    assert torch.autograd.gradcheck(
        lambda z: objective.value(z, target, PROGRESS, targeted), logits, atol=1e-7, fast_mode=True
    )


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in DETACHED])
def test_gradient_of_moved_references_and_regions(name: str, activation: str, restricted: bool) -> None:
    logits = random_logits("soft").requires_grad_()
    start = random_target("soft", region=True)
    soft, weight = (part.clone().requires_grad_() for part in (start.soft, start.weight))
    mask = torch.tensor([False, True, True]) if restricted else None
    still = Target(3, soft=start.soft, class_mask=mask, activation=activation)
    objective = get_objective(name)

    def value(*parts: torch.Tensor) -> torch.Tensor:
        return objective.value(parts[0], still.with_soft(parts[1], parts[2]), PROGRESS)

    assert torch.autograd.gradcheck(value, (logits, soft, weight), atol=1e-7, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
def test_cospgd_has_the_gradient_of_cross_entropy_with_constant_weights(mode: str) -> None:
    logits, target = random_logits(mode).requires_grad_(), random_target(mode)
    from monai_adversarial.attacks.objectives import compare

    weights = compare(logits, target).cosine()
    assert not weights.requires_grad and bool(((weights > 0) & (weights <= 1)).all())
    for targeted in (False, True):
        factor = 1 - weights if targeted else weights
        expected = (factor * compare(logits, target).cross_entropy()).flatten(1).mean(1)
        value = get_objective("cospgd").value(logits, target, PROGRESS, targeted)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(*(torch.autograd.grad(v.sum(), logits)[0] for v in (value, expected)))


def test_cospgd_moves_soft_references_through_its_cross_entropy() -> None:
    start = random_target("soft")
    soft = start.soft.clone().requires_grad_()
    value = get_objective("cospgd").value(random_logits("soft"), start.with_soft(soft), PROGRESS)
    (gradient,) = torch.autograd.grad(value.sum(), soft)
    assert bool(gradient.abs().amin() > 0)


@pytest.mark.parametrize("weighted", [False, True])
def test_closed_form_of_softmax_statistics(weighted: bool) -> None:
    logits, target = random_logits("hard").requires_grad_(), random_target("hard", region=weighted)
    found = softmax_statistics(logits, target.index, target.weight, totals=True)
    log_probabilities = logits.log_softmax(1)
    torch.testing.assert_close(found.log_own, log_probabilities.gather(1, target.index.unsqueeze(1)).squeeze(1))
    weight = 1 if target.weight is None else target.weight.unsqueeze(1)
    torch.testing.assert_close(found.totals, (log_probabilities.exp() * weight).flatten(2).sum(2))
    assert torch.equal(found.correct, logits.argmax(1) == target.index)

    def both(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return softmax_statistics(z, target.index, target.weight, totals=True)[:2]

    assert torch.autograd.gradcheck(both, logits, fast_mode=True)
    assert torch.autograd.gradcheck(lambda z: both(z)[0], logits, fast_mode=True)
    assert torch.autograd.gradcheck(lambda z: both(z)[1], logits, fast_mode=True)


def test_sums_of_classes_agree_between_devices() -> None:
    values, index = random_logits("hard")[:, 0], random_target("hard").index
    expected = torch.stack(
        [torch.stack([v[i == c].sum() for c in range(4)]) for v, i in zip(values, index, strict=True)]
    )
    torch.testing.assert_close(_sums_in_order(values, index, 4), expected)
    torch.testing.assert_close(_sums_by_class(values, index, 4), expected)
    assert torch.autograd.gradcheck(lambda v: class_sums(v, index, 4), values.requires_grad_())


def test_two_backward_passes_through_one_value_agree() -> None:
    logits, target = random_logits("hard").requires_grad_(), random_target("hard")
    value = get_objective("dice_ce").value(logits, target, PROGRESS).sum()
    first, second = (torch.autograd.grad(value, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    "objective",
    [
        Dice(include_background=True),
        Dice(sharpness=3.0),
        DiceCE(skip_absent=False),
        JensenShannon(balanced=True),
        Margin(1.0),
    ],
)
def test_gradient_with_other_settings(objective: Dice | DiceCE | JensenShannon | Margin) -> None:
    for mode in MODES:
        target = random_target(mode)
        logits = random_logits(mode).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda z, t=target: objective.value(z, t, PROGRESS), logits, atol=1e-7, fast_mode=True
        )


@pytest.mark.parametrize("scale", [1e4, 0.0])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_finite_for_extreme_logits(name: str, mode: str, scale: float) -> None:
    for targeted in (False, True):
        logits = (random_logits(mode, dtype=torch.float32).sign() * scale).requires_grad_()
        target = random_target(mode, dtype=torch.float32)
        value = get_objective(name).value(logits, target, PROGRESS, targeted)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.dtype == torch.float32 and bool(value.isfinite().all()) and bool(gradient.isfinite().all())


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_where_moved_labels_and_regions_are_zero(name: str, activation: str) -> None:
    soft = torch.zeros(2, 3, 4, 4)
    soft[0, 0, :2] = 1  # class 2 and half of the voxels are empty; sample 1 is empty altogether
    soft[0, 1, 2:3] = 1
    mask = torch.tensor([False, True, True])
    for weight in (torch.ones(2, 4, 4), torch.zeros(2, 4, 4)):
        for class_mask in (None, mask):
            still = Target(3, soft=soft, class_mask=class_mask, activation=activation)
            leaves = [torch.randn(2, 3, 4, 4) * 1e4, soft.clone(), weight.clone()]
            leaves = [leaf.requires_grad_() for leaf in leaves]
            value = get_objective(name).value(leaves[0], still.with_soft(leaves[1], leaves[2]), PROGRESS)
            gradients = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
            assert bool(value.isfinite().all())
            assert all(part is None or bool(part.isfinite().all()) for part in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_region_or_class_gives_finite_values(name: str) -> None:
    index = torch.zeros(2, 4, 4, dtype=torch.int64)
    index[1, 0] = 1
    mask = torch.tensor([False, True, True])  # sample 0 has none of these classes
    for target in (Target(3, index=index, class_mask=mask), Target(3, index=index, weight=torch.zeros(2, 4, 4).bool())):
        logits = torch.randn(2, 3, 4, 4, requires_grad=True)
        value = get_objective(name).value(logits, target, PROGRESS)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert bool(value.isfinite().all()) and bool(gradient.isfinite().all())


def test_the_margin_of_a_tie_is_zero() -> None:
    value = Margin(math.inf).value(torch.zeros(1, 3, 2), Target(3, index=torch.zeros(1, 2).long()), PROGRESS)
    assert value.tolist() == [0.0]
