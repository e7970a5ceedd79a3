# SPDX-License-Identifier: Apache-2.0
"""Inference in one domain of a network's dual normalization, and attacks through it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import ScaleIntensityRange
from torch import nn

from monai_adversarial.inferers import MemoryBoundedSlidingWindowInferer, ScannerSpaceInferer
from monai_adversarial.inferers.dual_normalization import DualNormalizationInferer
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.networks.dual_normalization import (
    collapse_dual_normalization,
    convert_dual_normalization,
    dual_normalizations,
    set_normalization,
)
from tests.helpers import random_image, tiny_segmentation_network

IMAGE = random_image((2, 1, 12, 12, 12))
WINDOW = SlidingWindowInferer(roi_size=8, overlap=0.5, mode="gaussian")


def dual_network() -> nn.Module:
    network = convert_dual_normalization(
        nn.Sequential(tiny_segmentation_network(out_channels=4), nn.BatchNorm3d(4), nn.Tanh(), nn.Conv3d(4, 3, 1))
    )
    adversarial = network[1].adversarial
    adversarial.running_mean.add_(0.3)
    adversarial.weight.data.mul_(torch.tensor([3.0, 2.0, 0.5, -1.0]))
    return network.eval()


@pytest.mark.parametrize("inner", [None, WINDOW])
@pytest.mark.parametrize("domain", ["clean", "adversarial"])
def test_output_is_that_of_the_collapsed_network_and_the_domain_is_restored(inner, domain):
    network = dual_network()
    set_normalization(network, "split")
    expected = collapse_dual_normalization(network, domain)
    expected = expected(IMAGE) if inner is None else inner(IMAGE, expected)
    torch.testing.assert_close(DualNormalizationInferer(inner, domain)(IMAGE, network), expected)
    assert {layer.domain for layer in dual_normalizations(network)} == {"split"}


@pytest.mark.parametrize("inner", [None, WINDOW])
@pytest.mark.parametrize("domain", ["clean", "adversarial"])
def test_an_attacks_gradient_is_exact_though_the_backward_pass_comes_after_the_domain_was_restored(inner, domain):
    network = dual_network()
    ordinary = collapse_dual_normalization(network, domain)
    weights = torch.randn(2, 3, 12, 12, 12, generator=torch.Generator().manual_seed(0))

    def gradient(inferer, net):
        image = IMAGE.clone().requires_grad_()
        predictor = Predictor(AttackedModel(net, inferer, precision="float32"), IMAGE)
        (found,) = torch.autograd.grad((predictor(image) * weights).sum(), image)
        return found

    found = gradient(DualNormalizationInferer(inner, domain), network)
    torch.testing.assert_close(found, gradient(inner, ordinary), rtol=1e-4, atol=1e-5)
    other = collapse_dual_normalization(network, "adversarial" if domain == "clean" else "clean")
    assert not torch.allclose(found, gradient(inner, other), rtol=0.1, atol=0.1)


def test_in_an_attack_the_inner_sliding_window_is_memory_bounded():
    bound = DualNormalizationInferer(WINDOW, "adversarial").for_image(IMAGE)
    assert isinstance(bound.inferer, MemoryBoundedSlidingWindowInferer) and bound.domain == "adversarial"
    assert not bound.is_bound


def test_it_stands_around_a_scanner_space_inferer_and_inside_one():
    network, affine = dual_network(), np.diag([2.0, 3.0, 4.0, 1.0])
    image = MetaTensor(100 * IMAGE, affine=torch.as_tensor(affine))
    scale = ScaleIntensityRange(a_min=0, a_max=100, b_min=0, b_max=1, clip=False)
    outside = DualNormalizationInferer(ScannerSpaceInferer(WINDOW, None, None, scale), "adversarial")
    inside = ScannerSpaceInferer(DualNormalizationInferer(WINDOW, "adversarial"), None, None, scale)
    expected = WINDOW(IMAGE, collapse_dual_normalization(network, "adversarial"))
    for inferer in (outside, inside, outside.for_image(image), inside.for_image(image)):
        torch.testing.assert_close(inferer(image, network).as_tensor(), expected, rtol=1e-4, atol=1e-5)
    part = outside.for_image(image).for_samples([1])
    torch.testing.assert_close(part(100 * IMAGE[1:], network), expected[1:], rtol=1e-4, atol=1e-5)


def test_bad_use_is_one_sentence():
    with pytest.raises(ValueError, match="domain must be one of 'clean', 'adversarial', 'split', got 'robust'"):
        DualNormalizationInferer(None, "robust")
    with pytest.raises(ValueError, match="normalization 'adversarial' needs a network with dual normalization"):
        DualNormalizationInferer(None, "adversarial")(IMAGE, tiny_segmentation_network())
