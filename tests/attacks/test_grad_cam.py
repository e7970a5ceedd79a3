# SPDX-License-Identifier: Apache-2.0
"""Attention maps equal Grad-CAM written by hand, and leave the network as it was."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import DenseNet121, UNet
from torch import nn

from monai_adversarial.attacks import grad_cam
from monai_adversarial.models import AttackedModel
from tests.helpers import random_image


class TwoLayers(nn.Module):
    """Two channels of the image, an activation that writes into its input, and two classes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 2, 1)
        self.active = nn.ReLU(inplace=True)
        self.second = nn.Conv3d(2, 2, 1)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([1.0, -2.0]).view(2, 1, 1, 1, 1))
            self.first.bias.copy_(torch.tensor([0.5, 1.0]))
            self.second.weight.copy_(torch.tensor([[1.0, 0.2], [0.5, 2.0]]).view(2, 2, 1, 1, 1))
            self.second.bias.zero_()

    def forward(self, image):
        return self.second(self.active(self.first(image)))


def by_hand(network: TwoLayers, image: torch.Tensor, channel: int) -> torch.Tensor:
    """The gradient of the sum of a class's logits where it is found is its row of weights there, 0 elsewhere."""
    with torch.no_grad():
        layer = network.first(image).relu()
        found = network(image).argmax(dim=1, keepdim=True) == channel
        weights = network.second.weight[channel].flatten().view(1, 2, 1, 1, 1)
        weights = weights * found.float().mean(dim=(2, 3, 4), keepdim=True)
        return (weights * layer).sum(dim=1, keepdim=True).relu()


def test_attention_of_a_segmentation_by_hand() -> None:
    network, image = TwoLayers(), random_image((2, 1, 4, 5, 6)) - 0.3
    found = grad_cam(AttackedModel(network, output_values="logits"), image, classes=[0, 1], layer="active")
    expected = torch.cat([by_hand(network, image, channel) for channel in (0, 1)], dim=1)
    torch.testing.assert_close(found, expected)
    assert bool((found > 0).any(dim=0).any(dim=0).any())
    only = grad_cam(AttackedModel(network, output_values="logits"), image, layer="active")
    torch.testing.assert_close(only, expected[:, 1:])  # the background is left out


def test_attention_through_windows_is_stitched_as_answers_are() -> None:
    network, image = TwoLayers(), random_image((1, 1, 4, 4, 11)) - 0.3
    model = AttackedModel(network, SlidingWindowInferer((4, 4, 8), 1, overlap=0.5), output_values="logits")
    found = grad_cam(model, image, layer="active")
    windows = [slice(0, 8), slice(3, 11)]
    total, count = torch.zeros_like(image), torch.zeros_like(image)
    for window in windows:
        total[..., window] += by_hand(network, image[..., window], 1)
        count[..., window] += 1
    torch.testing.assert_close(found, total / count)


def test_the_network_is_left_as_it_was() -> None:
    network = TwoLayers().train()
    network.second.weight.grad = torch.ones_like(network.second.weight)
    hooks = len(network.first._forward_hooks), len(network.first._backward_hooks)
    grad_cam(AttackedModel(network, output_values="logits"), random_image((1, 1, 4, 4, 4)), layer="first")
    assert network.training and network.active.inplace and network.first.weight.requires_grad
    assert bool((network.second.weight.grad == 1).all()) and network.first.weight.grad is None
    assert (len(network.first._forward_hooks), len(network.first._backward_hooks)) == hooks


def test_the_default_layer_is_the_bottleneck_and_classifiers_are_explained() -> None:
    torch.manual_seed(0)
    network = UNet(3, 1, 3, channels=(4, 6, 8), strides=(2, 2), num_res_units=0).eval()
    image = random_image((1, 1, 16, 16, 16))
    default = grad_cam(AttackedModel(network, output_values="logits"), image)
    assert default.shape == (1, 2, 16, 16, 16)
    named = grad_cam(AttackedModel(network, output_values="logits"), image, layer="model.1.submodule.1.submodule.adn")
    torch.testing.assert_close(default, named)
    classifier = DenseNet121(2, 1, 3).eval()
    found = grad_cam(AttackedModel(classifier, output_values="logits"), random_image((2, 1, 64, 64)))
    assert found.shape == (2, 3, 64, 64) and bool((found.flatten(2).amax(dim=2) > 0).any())


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (AttackedModel(lambda image: torch.cat([image, -image], dim=1)), {}, TypeError, "must hold a torch.nn.Module"),
        (TwoLayers(), {"layer": "firs"}, ValueError, "got 'firs': did you mean 'first'"),
        (TwoLayers(), {"classes": [2]}, ValueError, "classes must be output channels from 0 to 1, got"),
    ],
)
def test_what_cannot_be_explained_is_refused(model, options, error, message) -> None:
    with pytest.raises(error, match=message):
        grad_cam(model, random_image((1, 1, 4, 4, 4)), **options)
