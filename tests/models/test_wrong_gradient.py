# SPDX-License-Identifier: Apache-2.0
"""A gradient that is not that of the network is found, and no other."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import ExampleNetwork, example_case
from monai_adversarial.models import AttackedModel, wrong_gradient_reason

MODEL, IMAGE, _ = example_case(16)


class Behind(torch.nn.Module):
    """A network with something around it."""

    def __init__(self, call: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.call = ExampleNetwork(), call

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.call(self.network, image)


WRONG = {
    "detached but for a weak part": lambda network, image: network(image.detach()) + 0.05 * image,
    "detached but for what no softmax sees": lambda network, image: network(image.detach())[:, 1:3] + 0.05 * image,
    "half in NumPy": lambda network, image: network(torch.from_numpy(image.detach().numpy())) + 0.1 * network(image),
}
RIGHT = {
    "plain": lambda network, image: network(image),
    "clamped": lambda network, image: network(image.clamp(0.38, 0.44)),
    "probabilities": lambda network, image: network(image).softmax(1),
    "straight-through rounding": lambda network, image: network(image + ((image * 99).round() / 99 - image).detach()),
    "rounded": lambda network, image: network((image * 20).round() / 20) + 0 * image,
    "random": lambda network, image: network(image + 0.1 * torch.randn_like(image)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_part_without_gradient_is_found(name: str) -> None:
    reason = wrong_gradient_reason(MODEL.replace(network=Behind(WRONG[name])), IMAGE)
    assert reason.startswith("the gradient is not that of the network") and "too high" in reason


@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_said_of_others(name: str) -> None:
    assert wrong_gradient_reason(MODEL.replace(network=Behind(RIGHT[name])), IMAGE) == ""


@pytest.mark.parametrize("right", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_a_compiled_network_is_seen_through(right: bool, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **options: compiled(module, backend="aot_eager", **options))
    network = Behind(RIGHT["plain"] if right else WRONG["detached but for a weak part"])
    model = MODEL.replace(network=network if told else torch.compile(network), compile_network=told)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = PGD(16, "HU", steps=1)(model, IMAGE)
    said = [str(one.message) for one in caught if "the gradient is not that of the network" in str(one.message)]
    assert len(said) == (0 if right else 1) and (not right or result.forwards == 4)  # one of them to look


@pytest.mark.parametrize("options", [{}, {"norm": "instance"}, {"act": "SWISH"}])
@pytest.mark.parametrize("inferer", [None, SlidingWindowInferer((8, 8, 8), 4, 0.25)])
def test_nothing_is_said_of_trained_kinds_of_networks(options: dict, inferer: SlidingWindowInferer | None) -> None:
    torch.manual_seed(0)
    network = UNet(3, 1, 3, channels=(4, 8), strides=(2,), num_res_units=1, **options).eval()
    model = AttackedModel(network, inferer, intensity={"a_min": -160, "a_max": 340}, image_units="HU")
    assert wrong_gradient_reason(model, IMAGE) == ""


def test_a_cut_that_is_written_in_a_config_is_seen() -> None:
    inferer = eval("lambda image, network: network(image.detach()) + 0.05 * image", {"__name__": "monai.bundle.x"})
    model = AttackedModel(ExampleNetwork(), inferer, intensity={"a_min": -160, "a_max": 340}, image_units="HU")
    with pytest.warns(UserWarning, match=r"the gradient is not that of the network: .* \(detach was called\)"):
        PGD(16, "HU", steps=1)(model, IMAGE)
