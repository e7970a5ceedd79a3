# SPDX-License-Identifier: Apache-2.0
"""Objectives drive a linear model where the attacker wants it."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks.objectives import Progress, Target, get_objective
from tests.attacks.objectives.cases import NAMES
from tests.helpers import random_image, random_label

STEPS, STEP = 20, 0.1
MIXING = {
    "softmax": torch.tensor([[2.0, 0.5, 0.0], [0.0, 2.0, 0.5], [0.5, 0.0, 2.0]]),
    "sigmoid": torch.tensor([[2.0, -0.5]]),
}


def linear_model(image: torch.Tensor, activation: str) -> torch.Tensor:
    """Logits that mix the image's channels, voxel by voxel."""
    return torch.einsum("kc,bc...->bk...", MIXING[activation], image)


def prediction(logits: torch.Tensor) -> torch.Tensor:
    return (logits > 0).long() if logits.shape[1] == 1 else logits.argmax(1, keepdim=True)


def attacked_prediction(name: str, activation: str, reference: torch.Tensor, targeted: bool) -> torch.Tensor:
    """Hard prediction after sign steps on the image, up or (targeted) down the objective."""
    classes, channels = MIXING[activation].shape
    image = random_image((2, channels, 4, 4)) - 0.5
    target, objective = Target.from_label(reference, classes, activation), get_objective(name)
    for step in range(STEPS):
        image.requires_grad_()
        value = objective.value(linear_model(image, activation), target, Progress(step, STEPS), targeted)
        (gradient,) = torch.autograd.grad(value.sum(), image)
        image = (image + (-STEP if targeted else STEP) * gradient.sign()).detach()
    return prediction(linear_model(image, activation))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", NAMES)
def test_minimizing_the_targeted_objective_reaches_the_target(name: str, activation: str) -> None:
    wanted = random_label((2, 1, 4, 4), classes=3 if activation == "softmax" else 2)
    assert torch.equal(attacked_prediction(name, activation, wanted, targeted=True), wanted)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("name", NAMES)
def test_maximizing_the_objective_leaves_the_truth(name: str, activation: str) -> None:
    channels = MIXING[activation].shape[1]
    truth = prediction(linear_model(random_image((2, channels, 4, 4)) - 0.5, activation))
    assert truth.float().std() > 0, "the truth must not be one class"
    assert not bool((attacked_prediction(name, activation, truth, targeted=False) == truth).any())
