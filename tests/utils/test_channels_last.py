# SPDX-License-Identifier: Apache-2.0
"""2D networks get images channels last in bfloat16 passes where they take them, and are called as usual where not."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from monai.networks.nets import DenseNet121, UNet
from torch import nn

from monai_adversarial.attacks import PGD
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils import channels_last
from monai_adversarial.utils.channels_last import ChannelsLast, takes_channels_last, with_channels_last
from monai_adversarial.utils.precision import Precision
from tests.helpers import random_image, random_label, tiny_segmentation_network

SHAPE = (2, 3, 24, 20)


class _Convolved(nn.Module):
    """Convolutions around something that is done to what the first one gives."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
            self.last = nn.Conv2d(8, 3, 3, padding=1)
        self.eval().requires_grad_(False)

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.last(self.between(self.first(image)))


class _Views(_Convolved):
    """Raises on features whose channels lie last."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return features.view(len(features), -1).view(features.shape)


class _WritesIntoFlattened(_Convolved):
    """Means something else there: ``flatten`` gives a copy, and what is written into it is lost."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        features = features.clone()
        features.flatten(1)[:, ::2] *= -3.0
        return features


class _ViewsLargeImages(_Convolved):
    """Takes the layout when it is tried, and raises on another image."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        features = features + torch.rand(1)
        return features if features.shape[2] < 30 else features.view(len(features), -1).view(features.shape)


class _DropsAlways(_Convolved):
    """Draws, voxel by voxel in the order of the memory, other numbers in another layout."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(features, 0.5, training=True)


class _Asserts(_Convolved):
    """Refuses the layout in words of its own."""

    def between(self, features: torch.Tensor) -> torch.Tensor:
        assert features.is_contiguous(), "usual layout only"
        return features


def _answer_and_gradient(network, image: torch.Tensor, called=None) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = image.clone().requires_grad_(True)
    answer = Precision("bfloat16", image).wrap(network if called is None else called)(leaf)
    return answer.detach(), torch.autograd.grad(answer.float().square().mean(), leaf)[0]


def _layouts(network: nn.Module) -> list[bool]:
    """Is told, for each call of a network's convolutions, whether the channels of the input lie last."""
    seen: list[bool] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(
                lambda module, given: seen.append(given[0].stride(1) == 1 and given[0].shape[1] > 1)
            )
    return seen


@pytest.mark.parametrize("channels", [1, 3])
def test_convolutions_see_channels_last_and_answers_and_gradients_come_as_usual(channels):
    network = tiny_segmentation_network(channels, spatial_dims=2, features=8).requires_grad_(False)
    before = {name: (value.clone(), value.stride()) for name, value in network.state_dict().items()}
    image = random_image((2, channels, 24, 20))
    plain, plain_gradient = _answer_and_gradient(network, image)
    seen = _layouts(network)
    found, gradient = _answer_and_gradient(network, image, with_channels_last(network, network))
    assert seen == ([False, True] if channels == 1 else [True, True])  # one channel lies the same either way
    assert found.stride() == plain.stride() and gradient.stride() == image.stride()
    assert (found - plain).float().norm() <= 0.02 * plain.float().norm()
    assert (gradient - plain_gradient).norm() <= 0.05 * plain_gradient.norm()
    after = network.state_dict()
    assert all(
        torch.equal(after[name], value) and after[name].stride() == stride for name, (value, stride) in before.items()
    )


@pytest.mark.parametrize("kind", [_Views, _WritesIntoFlattened, _DropsAlways, _Asserts])
def test_networks_that_do_not_take_the_layout_give_the_bits_that_they_always_gave(kind, monkeypatch):
    tried = []
    monkeypatch.setattr(
        channels_last, "takes_channels_last", lambda *given: tried.append(1) or takes_channels_last(*given)
    )
    network, image = kind(), random_image(SHAPE)
    torch.manual_seed(0)
    plain, plain_gradient = _answer_and_gradient(network, image)
    for _ in range(3):
        torch.manual_seed(0)
        found, gradient = _answer_and_gradient(network, image, with_channels_last(network, network))
        assert torch.equal(found, plain) and torch.equal(gradient, plain_gradient)
    assert tried == [1]  # remembered for the network, whoever calls it


@pytest.mark.parametrize("kind", [_Convolved, _Views, _WritesIntoFlattened])
def test_attacks_hold_on_every_kind_of_network(kind):
    network, image, label = kind(), random_image(SHAPE), random_label((2, 1, 24, 20))
    found = PGD(0.05, steps=3)(AttackedModel(network, precision="bfloat16"), image, label)
    exact = PGD(0.05, steps=3)(AttackedModel(network, precision="float32"), image, label)
    assert channels_last._verdicts[id(network)] == (kind is _Convolved)
    assert (found.adversarial - image).abs().max() <= 0.05 + 1e-6
    torch.testing.assert_close(found.objective_history, exact.objective_history, rtol=0.05, atol=0.05)


def test_a_network_that_fails_later_falls_back_with_the_same_random_numbers():
    network, small, large = _ViewsLargeImages(), random_image(SHAPE), random_image((2, 3, 32, 20))
    called = with_channels_last(network, network)
    seen = _layouts(network)
    _answer_and_gradient(network, small, called)
    assert all(seen) and channels_last._verdicts[id(network)]
    torch.manual_seed(1)
    plain, plain_gradient = _answer_and_gradient(network, large)
    after = torch.random.get_rng_state()
    torch.manual_seed(1)
    found, gradient = _answer_and_gradient(network, large, called)
    assert torch.equal(found, plain) and torch.equal(gradient, plain_gradient)
    assert torch.equal(torch.random.get_rng_state(), after)
    assert not channels_last._verdicts[id(network)]


def test_errors_of_the_network_itself_stay_what_they_are():
    network = _Convolved()
    called = with_channels_last(network, network)
    for image in (random_image((2, 5, 24, 20)), random_image(SHAPE), random_image((2, 5, 24, 20))):
        if image.shape == SHAPE:
            _answer_and_gradient(network, image, called)
        else:
            with pytest.raises(RuntimeError, match="channels"):
                _answer_and_gradient(network, image, called)


def test_torchscript_networks_are_tried_too():
    for kind, takes in ((_Convolved, True), (_Views, False)):
        network = kind()
        image = random_image(SHAPE)
        scripted = torch.jit.freeze(torch.jit.trace(network, image)) if takes else torch.jit.trace(network, image)
        if takes:
            # Frozen weights are constants inside, not parameters: nothing says that none of them is trained.
            assert with_channels_last(scripted, scripted) is scripted
            scripted = torch.jit.trace(network, image)
        plain, plain_gradient = _answer_and_gradient(scripted, image)
        found, gradient = _answer_and_gradient(scripted, image, with_channels_last(scripted, scripted))
        assert channels_last._verdicts[id(scripted)] == takes
        if takes:
            assert (found - plain).float().norm() <= 0.02 * plain.float().norm()
            assert (gradient - plain_gradient).norm() <= 0.05 * plain_gradient.norm()
        else:
            assert torch.equal(found, plain) and torch.equal(gradient, plain_gradient)


def test_a_network_in_training_is_called_as_usual():
    image = random_image(SHAPE)
    gradients = []
    for called in (lambda network: network, lambda network: with_channels_last(network, network)):
        network = _Convolved().train().requires_grad_(True)
        seen = _layouts(network)
        Precision("bfloat16", image).wrap(called(network))(image).float().square().mean().backward()
        assert not any(seen) and id(network) not in channels_last._verdicts
        gradients.append([weight.grad for weight in network.parameters()])
    assert all(map(torch.equal, *gradients))


def test_other_passes_and_other_networks_are_called_as_usual():
    image, network = random_image(SHAPE), _Convolved()
    called = with_channels_last(network, network)
    seen = _layouts(network)
    assert torch.equal(called(image), network(image))  # float32
    with torch.autocast("cpu", dtype=torch.float16):
        called(image)
    assert not any(seen)
    for other in (
        tiny_segmentation_network(),
        nn.Linear(3, 3),
        lambda image: image,
        torch.compile(_Convolved(), backend="eager"),
    ):
        assert with_channels_last(other, other) is other


def test_the_trial_leaves_no_trace():
    network, image = _ViewsLargeImages(), random_image(SHAPE)
    network.first[1].train()  # counts in every pass
    before, state = copy.deepcopy(network.state_dict()), torch.random.get_rng_state()
    seen = _layouts(network)
    assert takes_channels_last(network, image)
    assert seen == [] and torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert image.is_contiguous() and not image.requires_grad


def test_a_network_that_cannot_be_copied_is_called_as_usual():
    network = _Convolved()
    network.kept = (random_image((1,)).requires_grad_(True) * 2,)  # not a leaf: deepcopy refuses it
    assert not takes_channels_last(network, random_image(SHAPE))


def test_what_was_found_is_forgotten_with_the_network():
    network = _Convolved()
    _answer_and_gradient(network, random_image(SHAPE), with_channels_last(network, network))
    key = id(network)
    assert key in channels_last._verdicts
    del network
    gc.collect()
    assert key not in channels_last._verdicts


@pytest.mark.parametrize(
    "lay", [lambda image: image, lambda image: image.contiguous(memory_format=torch.channels_last)]
)
def test_the_layout_of_the_image_changes_no_bit(lay):
    network, image, label = _Convolved(), random_image(SHAPE), random_label((2, 1, 24, 20))
    model = AttackedModel(network, precision="bfloat16")
    plain = PGD(0.05, steps=3)(model, image, label)
    other = PGD(0.05, steps=3)(model, lay(image), label)
    assert torch.equal(plain.adversarial, other.adversarial)
    assert torch.equal(plain.objective_history, other.objective_history)


def test_networks_of_monai_take_the_layout():
    networks = {
        "classifier": DenseNet121(spatial_dims=2, in_channels=3, out_channels=2),
        "segmenter": UNet(2, 3, 3, (4, 8, 16), (2, 2), num_res_units=1),
    }
    for network in networks.values():
        assert takes_channels_last(network.eval().requires_grad_(False), random_image((2, 3, 32, 32)))


def test_answers_of_several_tensors_come_as_usual():
    class Several(_Convolved):
        def forward(self, image):
            features = self.first(image)
            return {"logits": self.last(features), "levels": [features, features.mean((2, 3))], "name": "several"}

    network = Several()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = with_channels_last(network, network)(random_image(SHAPE))
    assert isinstance(with_channels_last(network, network), ChannelsLast)
    assert answer["logits"].is_contiguous() and answer["levels"][0].is_contiguous() and answer["name"] == "several"
