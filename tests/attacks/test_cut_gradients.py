# SPDX-License-Identifier: Apache-2.0
"""Where a call cuts the gradient, an attack asks whether what is left is the network's; others pay nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers import SimpleInferer, SlidingWindowInferer
from monai.networks.nets import UNet

from monai_adversarial.attacks import PGD, BackwardPassSubstitute, SquareAttack
from monai_adversarial.data.example import ExampleNetwork, example_case
from monai_adversarial.inferers import PurifiedInferer
from monai_adversarial.models import AttackedModel, wrong_gradient_reason
from monai_adversarial.transforms import BitDepthReduction

MODEL, IMAGE, LABEL = example_case(16)
WINDOW = {"a_min": -160, "a_max": 340}
Call = Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]


class Behind(torch.nn.Module):
    """A network with something around it."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.network, self.call = ExampleNetwork(), call

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.call(self.network, image)


def without_graph(network: torch.nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        most = network(image)
    return most + 0.05 * image.roll(1, 2)


def said(model: AttackedModel, attack: Any = None) -> tuple[list[str], Any]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = (attack or PGD(16, "HU", steps=2))(model, IMAGE, LABEL)
    return [str(one.message) for one in caught if "gradient is not that" in str(one.message)], result


class Backwards(torch.autograd.Function):
    """The identity, with a gradient of the wrong sign."""

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor) -> torch.Tensor:
        return image.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return -gradient


CUT: dict[str, Call] = {
    "autograd.Function": lambda network, image: network(Backwards.apply(image)),
    "detach": lambda network, image: network(image.detach()) + 0.05 * image.roll(1, 2),
    "data": lambda network, image: network(image.data) + 0.05 * image.roll(1, 2),
    "numpy": lambda network, image: network(torch.from_numpy(image.detach().numpy())) + 0.1 * network(image),
    "no_grad": without_graph,
}


@pytest.mark.parametrize("name", CUT)
def test_what_is_left_of_a_cut_gradient_is_said(name: str) -> None:
    found, _ = said(MODEL.replace(network=Behind(CUT[name])))
    assert len(found) == 1 and "was called" in found[0]


def test_an_ensemble_behind_a_lambda_of_which_one_member_has_a_gradient() -> None:
    networks = [ExampleNetwork() for _ in range(4)]
    mean = lambda image: (networks[0](image) + sum(one(image).detach() for one in networks[1:])) / 4  # noqa: E731
    assert len(said(MODEL.replace(network=mean))[0]) == 1


def test_an_inferer_of_somebody_that_detaches() -> None:
    inferer = lambda image, network: network(image.detach()) + 0.05 * image.roll(1, 2)  # noqa: E731
    assert len(said(MODEL.replace(network=ExampleNetwork(), inferer=inferer))[0]) == 1


def test_a_cut_inside_a_script() -> None:
    script = torch.jit.trace(Behind(CUT["detach"]), torch.rand(1, 1, 16, 16, 16))
    assert len(said(MODEL.replace(network=script))[0]) == 1


MEANT: dict[str, Call] = {
    "straight through": lambda network, image: network(image + ((image * 99).round() / 99 - image).detach()),
    "stable logits": lambda network, image: network(image) - network(image).amax(1, keepdim=True).detach(),
    "looked at": lambda network, image: network(image) + 0 * float(np.asarray(image.detach()).mean()),
}


@pytest.mark.parametrize("name", MEANT)
def test_a_cut_that_hides_nothing_is_not_said(name: str) -> None:
    found, result = said(MODEL.replace(network=Behind(MEANT[name])))
    plain = said(MODEL.replace(network=ExampleNetwork()))[1]
    assert found == [] and 3 <= result.forwards - plain.forwards <= 5  # the passes are counted


@pytest.mark.parametrize("options", [{}, {"norm": "instance"}, {"act": "SWISH"}, {"dropout": 0.2}])
@pytest.mark.parametrize("inferer", [None, SlidingWindowInferer((8, 8, 8), 4, 0.25)])
def test_networks_of_monai_pay_nothing(options: dict[str, Any], inferer: Any) -> None:
    torch.manual_seed(0)
    network = UNet(3, 1, 4, channels=(4, 8), strides=(2,), num_res_units=1, **options).eval()
    model = AttackedModel(network, inferer, intensity=WINDOW, image_units="HU")
    first = PGD(16, "HU", steps=2)(model, IMAGE, LABEL).forwards
    assert first == PGD(16, "HU", steps=2)(model, IMAGE, LABEL).forwards


def test_queries_need_no_gradient() -> None:
    found, _ = said(MODEL.replace(network=Behind(CUT["detach"])), SquareAttack(16, "HU", queries=4))
    assert found == []


def test_a_purifier_with_a_substitute_is_not_judged() -> None:
    inferer = PurifiedInferer(SimpleInferer(), BitDepthReduction(intensity=WINDOW))
    model = MODEL.replace(network=Behind(CUT["detach"]), inferer=inferer)
    attack = PGD(16, "HU", steps=1, gradient=BackwardPassSubstitute())
    assert said(model, attack)[0] == [] and wrong_gradient_reason(model, IMAGE) == ""
