# SPDX-License-Identifier: Apache-2.0
"""What a network computes is in its hash: no study goes on with one network and the figures of another."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from monai_adversarial.models import AttackedModel
from monai_adversarial.studies.measurement import model_settings, network_hashes
from monai_adversarial.utils.hashing import describe, fingerprint, network_hash, weights_hash


class Sharpened(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.layer = nn.Conv3d(1, 2, 1)
        nn.init.ones_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.factor = factor
        self.answers: dict[int, torch.Tensor] = {}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layer(image) * self.factor


def unet(**options: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(3, 1, 2, channels=(4, 8), strides=(2,), **options)


def edited(rounds: bool) -> nn.Module:
    class Network(Sharpened):
        if rounds:

            def forward(self, image: torch.Tensor) -> torch.Tensor:
                return super().forward(image.round())

    return Network()


PAIRS = {
    "setting": (Sharpened(1.0), Sharpened(1000.0)),
    "activation": (unet(act="RELU"), unet(act="LEAKYRELU")),
    "dropout": (unet(dropout=0.1), unet(dropout=0.5)),
    "epsilon": (unet(norm=("instance", {"eps": 1e-5})), unet(norm=("instance", {"eps": 1e-1}))),
    "code": (edited(False), edited(True)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_networks_of_the_same_weights_that_compute_something_else_differ(pair: str) -> None:
    one, other = PAIRS[pair]
    assert network_hash(one) == network_hash(one) != network_hash(other)


def test_what_a_network_merely_keeps_does_not_change_it() -> None:
    network = Sharpened()
    before = network_hash(network), weights_hash(network)
    network.answers[0] = network(torch.ones(1, 1, 2, 2, 2))
    network.train()
    assert (network_hash(network), weights_hash(network)) == before


def _scaled(image: Any, network: Any, factor: float = 1.0) -> Any:
    return network(image * factor)


def held(factor: float) -> Any:
    return lambda image, network: network(image * factor)


NETWORK, OTHER = Sharpened(1.0), Sharpened(2.0)
FUNCTIONS = {
    "lambdas": (lambda image, network: network(image), lambda image, network: network(image * 0)),
    "closures": (held(1.0), held(2.0)),
    "partials": (functools.partial(_scaled, factor=1.0), functools.partial(_scaled, factor=2.0)),
    "global networks": (lambda image: NETWORK(image), lambda image: OTHER(image)),
}


@pytest.mark.parametrize("pair", FUNCTIONS)
def test_functions_of_one_name_that_do_something_else_differ(pair: str) -> None:
    one, other = (fingerprint({"function": describe(function)}) for function in FUNCTIONS[pair])
    assert one != other


def test_a_network_in_a_global_variable_is_part_of_the_model() -> None:
    model = AttackedModel(lambda image: NETWORK(image))
    assert network_hashes(model) == [network_hash(NETWORK)]
    assert model_settings(model) == model_settings(AttackedModel(model.network))


def test_a_library_is_known_by_its_version() -> None:
    assert describe(torch.nn.functional.relu) == "torch.nn.functional.relu"
    assert describe(nn.Conv3d).endswith("Conv3d")
