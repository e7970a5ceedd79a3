# SPDX-License-Identifier: Apache-2.0
"""One-step training, and the check that ends it when it collapses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn

from monai_adversarial.attacks import PGD
from monai_adversarial.handlers import FastAdversarialTraining
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks import convert_dual_normalization
from tests.handlers.test_adversarial_training import RATE, sgd_step
from tests.handlers.trainers import FLOAT32, LinearSegmenter, SmallNetwork, cross_entropy, items, trainer

EPSILON = 0.05


def test_a_step_equals_the_formula_on_a_linear_network() -> None:
    network, data = LinearSegmenter(), items(2, torch.float64)
    expected = copy.deepcopy(network)
    image, label = (torch.stack([item[key] for item in data]) for key in ("image", "label"))
    # The random start is the package's own, seeded by voxels and iteration; the rest is by hand.
    model = AttackedModel(expected, precision="float32")
    attack = PGD(EPSILON, steps=1, step_size=1.25 * EPSILON, objective="cross_entropy")
    begin = PGD(EPSILON, steps=1, step_size=1e-12).perturb(model, image, label, stream=1)
    start = begin.adversarial - image
    weight = expected.conv.weight.detach().flatten()
    upward = torch.where(label == 0, weight[1] - weight[0], weight[0] - weight[1]).sign()
    adversarial = image + (start + 1.25 * EPSILON * upward).clamp(-EPSILON, EPSILON)
    torch.testing.assert_close(
        attack.perturb(model, image, label, stream=1).adversarial, adversarial, atol=1e-9, rtol=0
    )
    sgd_step(expected, cross_entropy(expected(adversarial), label))
    handler = FastAdversarialTraining(EPSILON, model=FLOAT32, objective="cross_entropy", check_interval=0)
    trainer(network, [handler], data, lr=RATE).run()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-8, atol=1e-10)


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network, self.forwards = SmallNetwork(norm=False), 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.forwards += 1
        return self.network(image)


def test_an_iteration_costs_two_forward_passes() -> None:
    network = Counting()
    trainer(network, [FastAdversarialTraining(EPSILON, check_interval=0)], batch_size=4).run()
    assert network.forwards == 2


class Collapse:
    """Makes the network useless in a chosen epoch: what catastrophic overfitting does, all of a sudden."""

    def __init__(self, network: SmallNetwork, epoch: int) -> None:
        self.network, self.epoch = network, epoch

    def attach(self, engine: SupervisedTrainer) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: SupervisedTrainer) -> None:
        if engine.state.epoch == self.epoch:
            with torch.no_grad():
                self.network.second.bias.copy_(torch.tensor([100.0, -100.0]))


def separable(count: int = 2) -> list[dict[str, Any]]:
    """Bright foreground on dark background: a network that knows it resists small changes."""
    found = []
    for item in items(count, shape=(1, 6, 6, 6)):
        label = torch.zeros(1, 6, 6, 6, dtype=torch.long)
        label[:, :3] = 1
        found.append({"image": label.float() * 0.8 + 0.1 + 0.02 * item["image"], "label": label})
    return found


def test_collapse_restores_the_weights_of_the_last_check_and_stops() -> None:
    network = SmallNetwork(norm=False, seed=1)
    handler = FastAdversarialTraining(EPSILON, tolerance=0.2)
    kept: dict[int, dict[str, torch.Tensor]] = {}

    class Keep:
        def attach(self, engine: SupervisedTrainer) -> None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

        def __call__(self, engine: SupervisedTrainer) -> None:
            kept[engine.state.epoch] = copy.deepcopy(network.state_dict())

    engine = trainer(network, [Keep(), handler, Collapse(network, 31)], separable(), lr=0.5, max_epochs=60)
    engine.run()
    assert handler.overfitted and engine.state.epoch == 31
    assert handler.robust_dice is not None and handler.robust_dice > 0.8
    for name, value in kept[30].items():
        assert torch.equal(network.state_dict()[name], value), name
    assert not torch.equal(kept[31]["second.bias"], kept[30]["second.bias"])


def test_a_training_that_does_not_collapse_runs_to_its_end() -> None:
    network = SmallNetwork(norm=False, seed=1)
    handler = FastAdversarialTraining(EPSILON)
    engine = trainer(network, [handler], separable(), lr=0.5, max_epochs=5)
    engine.run()
    assert not handler.overfitted and engine.state.epoch == 5
    assert engine.state.metrics["robust_train_dice"] == handler.robust_dice
    again = FastAdversarialTraining(EPSILON)
    again.load_state_dict(handler.state_dict())
    assert again.robust_dice == handler.robust_dice


def test_a_training_that_was_stopped_is_not_resumed() -> None:
    network = SmallNetwork(norm=False, seed=1)
    handler = FastAdversarialTraining(EPSILON)
    handler.load_state_dict({"robust_dice": 0.8, "overfitted": True, "weights": None})
    before = copy.deepcopy(network.state_dict())
    engine = trainer(network, [handler], separable(), max_epochs=3)
    engine.run()
    assert engine.state.iteration == 0
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_the_check_sees_the_adversarial_branch_of_dual_normalization() -> None:
    network = convert_dual_normalization(SmallNetwork(seed=1))
    handler = FastAdversarialTraining(EPSILON, adversarial_weight=0.5)
    engine = trainer(network, [handler], separable(), max_epochs=1)
    seen: list[str] = []
    attack = handler.check_attack

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(network.norm.domain)
        return attack(*args, **kwargs)

    watched.steps = 10  # type: ignore[attr-defined]
    handler.check_attack = watched  # type: ignore[assignment]
    engine.run()
    assert seen == ["adversarial"] and network.norm.domain == "clean"


def test_bad_arguments_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="epsilon must be a finite number > 0, got 0"):
        FastAdversarialTraining(0)
    with pytest.raises(TypeError, match="check_attack must be a monai_adversarial.attacks.Attack, got str"):
        FastAdversarialTraining(0.1, check_attack="pgd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance must be a number from 0 to 1"):
        FastAdversarialTraining(0.1, tolerance=3)
