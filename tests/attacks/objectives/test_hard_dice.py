# SPDX-License-Identifier: Apache-2.0
"""Hard Dice as an objective is the score to the last rule."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import PGD, HardDice
from monai_adversarial.attacks.objectives import Target
from monai_adversarial.attacks.objectives.adding import add_up
from monai_adversarial.metrics.dice import hard_prediction, mean_foreground_dice
from tests.attacks.black_boxes import SmoothThreshold, bright_boxes
from tests.attacks.objectives.cases import MODES, PROGRESS, chosen_classes, random_logits, random_target


@pytest.mark.parametrize("mode", ["hard", "sigmoid", "sigmoid_one_channel"])
def test_it_is_one_minus_the_score(mode: str) -> None:
    logits, target = random_logits(mode), random_target(mode)
    label = target.index[:, None] if target.soft is None else target.soft
    dice = mean_foreground_dice(hard_prediction(logits, target.activation), label, target.classes, target.activation)
    torch.testing.assert_close(HardDice().value(logits, target, PROGRESS), (1 - dice).float())


@pytest.mark.parametrize("mode", MODES)
def test_classes_that_do_not_count_are_left_out(mode: str) -> None:
    logits, chosen = random_logits(mode), random_target(mode, classes=chosen_classes(mode))
    value = HardDice().value(logits, chosen, PROGRESS)
    assert value.shape == (2,) and bool(((value >= 0) & (value <= 1)).all())
    if mode == "hard":
        one = Target(3, index=chosen.index, class_mask=torch.tensor([False, False, True]))
        prediction, label = logits.argmax(dim=1, keepdim=True), chosen.index[:, None]
        dice = mean_foreground_dice(prediction, label, 3, "softmax", channels=[2])
        torch.testing.assert_close(HardDice().value(logits, one, PROGRESS), (1 - dice).float())


@pytest.mark.parametrize("mode", ["hard", "sigmoid"])
def test_parts_of_a_volume_add_up(mode: str) -> None:
    logits, target = random_logits(mode), random_target(mode, region=True)
    objective = HardDice()
    pieces = [(slice(0, 2), slice(0, 1)), (slice(0, 2), slice(1, 3))]
    total = None
    for box in pieces:
        parts, _ = add_up(objective, logits[(slice(None), slice(None), *box)], target.part(where=box), PROGRESS, False)
        total = parts if total is None else tuple(a + b for a, b in zip(total, parts, strict=True))
    torch.testing.assert_close(objective.combine(total, target)[0], objective.value(logits, target, PROGRESS))


def test_empty_and_invented_organs() -> None:
    empty = Target(2, index=torch.zeros(2, 4, 4, dtype=torch.long))
    logits = torch.zeros(2, 2, 4, 4)
    logits[:, 0] = 1.0
    logits[1, 1, 0, 0] = 2.0
    assert HardDice().value(logits, empty, PROGRESS).tolist() == [0.0, 1.0]


def test_only_the_background_is_refused() -> None:
    target = Target(2, index=torch.zeros(1, 4, dtype=torch.long), class_mask=torch.tensor([True, False]))
    with pytest.raises(ValueError, match="excludes the background"):
        HardDice().value(torch.zeros(1, 2, 4), target, PROGRESS)


def test_a_search_with_gradients_is_refused() -> None:
    image, label = bright_boxes()
    with pytest.raises(TypeError, match="HardDice has no gradient"):
        PGD(0.05, objective=HardDice())(SmoothThreshold(), image, label)
