# SPDX-License-Identifier: Apache-2.0
"""An attack without a gradient to follow says so: what it leaves standing is no robustness."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import PGD, AttackResult, SquareAttack
from tests.helpers import LinearNetwork

IMAGE = torch.linspace(0, 1, 8**3).view(1, 1, 8, 8, 8)
LABEL = (IMAGE > 0.5).long()


class Behind(nn.Module):
    """A network that is as easy to fool as any, behind something that hides its gradient."""

    def __init__(self, hide: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.hide = LinearNetwork((-4.0, 4.0), (2.0, -2.0)), hide

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.hide(self.network, image)


MASKS = {
    "8 bits": lambda network, image: network((image * 255).round() / 255),
    "detached": lambda network, image: network(image.detach()) + 0 * image,
    "rounded probabilities": lambda network, image: network(image).softmax(dim=1).round(),
    "saturated logits": lambda network, image: network(image) * 1e8,
}


def attacked(network: nn.Module, epsilon: float = 0.3) -> tuple[AttackResult, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = PGD(epsilon, steps=5, random_start=False)(network, IMAGE, LABEL)
    return result, [str(one.message) for one in caught if "gradient" in str(one.message)]


@pytest.mark.parametrize("name", MASKS)
def test_an_attack_that_was_blind_is_said_once(name: str) -> None:
    network = Behind(MASKS[name])
    result, said = attacked(network)
    # A gradient that was seen to be cut is compared with what the answer does, besides.
    assert float(result.adversarial_dice) > 0.9 and len(said) == (2 if name == "detached" else 1)
    assert "entries are exactly zero in 1 of 1 samples" in said[-1] and "That is no robustness" in said[-1]
    assert all("the gradient is not that of the network" in one for one in said[:-1])
    assert attacked(network)[1] == []
    # The same network is as weak as the bare one: an attack that asks finds it out, and says nothing of gradients.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(SquareAttack(0.3, queries=100)(network, IMAGE, LABEL).adversarial_dice) < 0.8


@pytest.mark.parametrize("low", [0.3, 0.4])
def test_voxels_that_a_clamp_inside_the_network_freezes_are_said(low: float) -> None:
    """A random start puts many of them beyond the clamp, where they have no gradient and stay."""
    network = Behind(lambda network, image: network(image.clamp(low, 1 - low)))
    with pytest.warns(
        UserWarning,
        match="of these voxels alone, inside the budget, changes the segmentation .* clamp, rounding or satur",
    ):
        result = PGD(0.3, steps=2)(network, IMAGE, LABEL)
    assert 0.2 < float(result.zero_gradient_fraction) < 0.9 and not bool(result.success)


def test_an_eighth_of_the_voxels_that_steers_everything_is_said() -> None:
    """One slice of eight lies below a clamp, and lifts all logits as soon as it is above."""

    def steered(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
        slice_, rest = image[..., :1, :, :].clamp(0.13, 0.87), image[..., 1:, :, :]
        return network(torch.cat([slice_, rest], dim=-3) + 2.5 * (slice_.mean() - 0.13))

    result, (said,) = attacked(Behind(steered), epsilon=0.1)
    assert "12% of the gradient's entries are exactly zero in 1 of 1 samples, but a change of these" in said
    assert float(result.zero_gradient_fraction) == 0.125 and float(result.adversarial_dice) > 0.7


def test_voxels_that_the_network_does_not_look_at_are_no_doubt() -> None:
    """Half of the image has no gradient and does nothing."""

    def half(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
        seen = torch.arange(8).view(-1, 1, 1) >= 4
        return network(torch.where(seen, image, torch.zeros(())))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = PGD(0.05, steps=2)(Behind(half), IMAGE, LABEL)
    assert float(result.zero_gradient_fraction) == 0.5 and not bool(result.success)


def test_an_attack_with_gradients_and_a_robust_network_say_nothing() -> None:
    result, said = attacked(LinearNetwork((-4.0, 4.0), (2.0, -2.0)))
    assert float(result.adversarial_dice) < 0.5 and said == []
    result, said = attacked(LinearNetwork((-4.0, 4.0), (2.0, -2.0)), epsilon=0.001)
    assert float(result.adversarial_dice) > 0.9 and said == []


def test_a_training_without_gradients_is_said_after_five_batches() -> None:
    attack, network = PGD(0.3, steps=1), Behind(MASKS["8 bits"])

    def batches(count: int, behind: nn.Module) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for number in range(count):
                attack.perturb(behind, IMAGE, LABEL, stream=number)
        return [str(one.message) for one in caught]

    assert batches(4, network) == []
    assert batches(1, LinearNetwork((-4.0, 4.0), (2.0, -2.0))) == []  # a batch between them begins the count anew
    assert batches(4, network) == []
    (said,) = batches(3, network)
    assert "every entry of the gradient was exactly zero in 5 batches in a row" in said
