# SPDX-License-Identifier: Apache-2.0
"""Networks that hold still: in the main thread restored to the last buffer, in any other a copy of their own."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from monai.data import Dataset, ThreadDataLoader
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.nn import functional as F

from monai_adversarial.attacks import PGD, BackwardPassSubstitute
from monai_adversarial.handlers.reference_network import frozen_outputs
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks import FeatureNoise
from monai_adversarial.utils.modules import frozen, held_still
from tests.helpers import random_image, random_label, tiny_segmentation_network


class Counting(nn.Module):
    """A layer whose buffers change in evaluation mode: in place, by another tensor, and by one that was not there."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("momentum", torch.zeros(3))
        self.register_buffer("empty", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.momentum = 0.9 * self.momentum + 0.1 * x.detach().mean()
        self.empty = x.detach().mean()
        if "late" not in self._buffers:
            self.register_buffer("late", torch.ones(1))
        return x * (1 + 0.01 * self.calls)


def network_with_buffers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 3, 3, padding=1), nn.BatchNorm3d(3), Counting(), nn.Conv3d(3, 3, 1)).train()


def state(network: nn.Module) -> dict[str, Any]:
    return {
        "training": [module.training for module in network.modules()],
        "needs": [weight.requires_grad for weight in network.parameters()],
        "buffers": {name: buffer.clone() for name, buffer in network.named_buffers()},
        "identity": {name: id(buffer) for name, buffer in network.named_buffers()},
        "weights": [weight.detach().clone() for weight in network.parameters()],
    }


def assert_same_state(network: nn.Module, before: dict[str, Any]) -> None:
    after = state(network)
    for key in ("training", "needs", "identity"):
        assert after[key] == before[key], key
    for name, buffer in before["buffers"].items():
        assert torch.equal(after["buffers"][name], buffer), name
    assert all(torch.equal(a, b) for a, b in zip(after["weights"], before["weights"], strict=True))


def in_thread(call: Callable[[], Any]) -> Any:
    """The value of ``call`` in a thread of its own; its exception is raised here."""
    box: dict[str, Any] = {}

    def body() -> None:
        try:
            box["value"] = call()
        except BaseException as error:
            box["error"] = error

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if "error" in box:
        raise box["error"]
    return box["value"]


@pytest.mark.parametrize("scored", [True, False])
def test_buffers_that_change_in_evaluation_mode_are_as_before_an_attack(scored: bool) -> None:
    network = network_with_buffers()
    before = state(network)
    attack = PGD(0.1, steps=2)
    image, label = random_image((1, 1, 6, 6, 6)), random_label((1, 1, 6, 6, 6))
    (attack if scored else attack.perturb)(network, image, label)
    assert_same_state(network, before)
    assert network[2].empty is None


def test_a_layer_that_normalizes_and_updates_in_evaluation_mode_is_restored() -> None:
    class Stubborn(nn.BatchNorm3d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, 0.5)

    network = nn.Sequential(Stubborn(1), nn.Conv3d(1, 2, 1)).eval()
    before = state(network)
    PGD(0.1, steps=2)(network, random_image((2, 1, 6, 6, 6)), random_label((2, 1, 6, 6, 6), classes=2))
    assert_same_state(network, before)


def test_a_graph_that_was_built_before_can_be_differentiated_after() -> None:
    network = network_with_buffers()
    loss = network(random_image((2, 1, 6, 6, 6))).square().mean()
    PGD(0.1, steps=1).perturb(network, random_image((2, 1, 6, 6, 6)), random_label((2, 1, 6, 6, 6)))
    loss.backward()
    assert network[0].weight.grad.abs().max() > 0


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_inside_leaves_no_module_changed(error: type[BaseException]) -> None:
    network = network_with_buffers()
    network[0].weight.requires_grad_(False)
    before = state(network)
    with pytest.raises(error), frozen([network]):
        network(random_image((1, 1, 6, 6, 6)))
        raise error
    assert_same_state(network, before)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("inside", [None, ValueError])
def test_an_interruption_while_restoring_leaves_no_other_module_changed(
    times: int, inside: type[BaseException] | None
) -> None:
    interruptions = []

    class Interrupted(nn.ReLU):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "training" and value and len(interruptions) < times and armed:
                interruptions.append(name)
                raise KeyboardInterrupt
            super().__setattr__(name, value)

    armed = False
    network = nn.Sequential(nn.Conv3d(1, 2, 1), Interrupted(), nn.BatchNorm3d(2), nn.Dropout()).train()
    before = state(network)
    armed = True
    with pytest.raises(KeyboardInterrupt), frozen([network]):
        if inside is not None:
            raise inside
    armed = False
    assert len(interruptions) == times
    if times == 2:  # it is tried twice and then left, the others are restored
        assert not network[1].training
        network[1].training = True
    assert_same_state(network, before)


def test_outside_the_main_thread_a_network_is_a_frozen_copy_with_its_weights() -> None:
    network = network_with_buffers()
    before = state(network)

    def look() -> Any:
        with held_still(network) as still:
            assert still is not network
            assert not any(module.training for module in still.modules())
            assert not any(weight.requires_grad for weight in still.parameters())
            assert_same_state(network, before)
            still(random_image((1, 1, 6, 6, 6)))
            return still

    still = in_thread(look)
    assert_same_state(network, before)
    shared = {weight.data_ptr() for weight in network.parameters()} & {w.data_ptr() for w in still.parameters()}
    assert not shared  # an optimizer's step in place would meet the attack's backward pass
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), still.parameters(), strict=True))
    with held_still(network) as same:
        assert same is network


def test_a_network_with_a_tensor_that_has_a_graph_is_copied_too() -> None:
    network = nn.Sequential(nn.utils.spectral_norm(nn.Conv3d(1, 2, 3, padding=1)))
    image = random_image((1, 1, 5, 5, 5))
    network(image)  # old-style spectral normalization keeps the normalized weight
    assert network[0].weight.grad_fn is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = in_thread(lambda: frozen_outputs(network, image, lambda x, net: net(x)))
    torch.testing.assert_close(found, frozen_outputs(network, image, lambda x, net: net(x)))


def test_what_cannot_be_copied_is_said_and_restored() -> None:
    network = network_with_buffers()
    before = state(network)
    image, label = random_image((1, 1, 6, 6, 6)), random_label((1, 1, 6, 6, 6))
    expected = PGD(0.1, steps=2)(lambda x: network(x), image, label)
    with pytest.warns(UserWarning, match=r"cannot be copied.*Pass the torch.nn.Module itself"):
        found = in_thread(lambda: PGD(0.1, steps=2)(lambda x: network(x), image, label))
    assert torch.equal(found.adversarial, expected.adversarial)
    assert_same_state(network, before)


@pytest.mark.filterwarnings("ignore:.*cannot be copied")
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("inferer", [None, SlidingWindowInferer(6, 2, 0.5)])
def test_attacks_in_threads_give_what_they_give_one_after_the_other(inferer: Any, hidden: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), FeatureNoise(0.5), nn.BatchNorm3d(4), nn.PReLU(), nn.Conv3d(4, 3, 1)
    ).train()
    before = state(network)
    predict = (lambda x: network(x)) if hidden else network
    label = random_label((2, 1, 8, 8, 8))
    attacks = [
        PGD(0.1, steps=4, seed=number, gradient=BackwardPassSubstitute() if number % 2 else None) for number in range(4)
    ]
    images = [random_image((2, 1, 8, 8, 8), seed=number) for number in range(4)]

    def run(number: int) -> torch.Tensor:
        return attacks[number](AttackedModel(predict, inferer), images[number], label).adversarial

    expected = [run(number) for number in range(4)]
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: run(n)})) for n in range(1, 4)]
    for thread in threads:
        thread.start()
    found[0] = run(0)  # beside them, in the main thread
    for thread in threads:
        thread.join()
    for number in range(4):
        assert torch.equal(found[number], expected[number]), number
    assert_same_state(network, before)


def test_training_beside_an_attack_in_a_loader_thread_is_the_training_without_it() -> None:
    image, label = random_image((1, 1, 12, 12, 12)), random_label((1, 1, 12, 12, 12), classes=2)

    def train(attacked: bool) -> tuple[list[torch.Tensor], int]:
        torch.manual_seed(0)
        network = nn.Sequential(
            tiny_segmentation_network(out_channels=4), nn.BatchNorm3d(4), nn.Dropout(0.2), nn.Conv3d(4, 2, 1)
        ).train()
        finished = []

        def transform(number: int) -> dict[str, torch.Tensor]:
            if attacked:
                finished.append(PGD(0.05, steps=3)(network, image + 0.01 * number, label))
            return {"image": image[0] + 0.01 * number, "label": label[0]}

        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        for batch in ThreadDataLoader(Dataset(list(range(6)), transform), batch_size=1, buffer_size=1, num_workers=0):
            for _ in range(3):
                assert all(module.training for module in network.modules())
                assert all(weight.requires_grad for weight in network.parameters())
                optimizer.zero_grad()
                F.cross_entropy(network(batch["image"]), batch["label"][:, 0]).backward()
                optimizer.step()
        return [*(w.detach() for w in network.parameters()), *network.buffers()], len(finished)

    plain, _ = train(attacked=False)
    beside, attacks = train(attacked=True)
    assert attacks == 6
    for a, b in zip(beside, plain, strict=True):
        assert torch.equal(a, b)
