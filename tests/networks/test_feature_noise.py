# SPDX-License-Identifier: Apache-2.0
"""Feature noise: its size, when it is there, and that an attack can average over it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import PGD, ExpectationOverTransformation
from monai_adversarial.models import AttackedModel
from monai_adversarial.networks.feature_noise import FeatureNoise, insert_feature_noise
from monai_adversarial.utils.draws import random_draw
from tests.helpers import random_image, random_label, tiny_segmentation_network


@pytest.mark.parametrize("sizes", [(40, 50), (12, 13, 14)])
def test_noise_is_alpha_times_the_deviation_of_the_sample(sizes):
    torch.manual_seed(0)
    features = random_image((2, 3, *sizes)) * torch.tensor([1.0, 10.0]).view(2, *[1] * (len(sizes) + 1))
    for noise in (FeatureNoise(0.25).train(), FeatureNoise(0.25, always=True).eval()):
        added = noise(features) - features
        for one, sample in zip(added, features, strict=True):
            assert float(one.detach().std() / sample.std()) == pytest.approx(0.25, rel=0.05)
            assert abs(float(one.detach().mean())) < 0.02 * float(sample.std())


def test_training_draws_are_of_the_sample_and_follow_the_global_state():
    features = random_image((1, 3, 4, 4, 4)).expand(2, -1, -1, -1, -1)
    noise = FeatureNoise().train()
    torch.manual_seed(1)
    first = noise(features)
    torch.manual_seed(1)
    assert torch.equal(noise(features), first) and not torch.equal(noise(features), first)
    assert not torch.equal(first[0], first[1])


def test_evaluation_is_the_identity_unless_always():
    features = random_image((1, 3, 4, 4, 4))
    assert FeatureNoise().eval()(features) is features
    assert not torch.equal(FeatureNoise(always=True).eval()(features), features)


def test_always_follows_the_named_draw_and_nothing_else():
    features = random_image((3, 2, 4, 5, 6))
    noise = FeatureNoise(always=True, seed=3).eval()
    state = torch.get_rng_state()
    out = noise(features)
    assert torch.equal(noise(features), out) and torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(torch.cat([noise(sample[None]) for sample in features]), out)
    torch.testing.assert_close(noise(features.flip(0)).flip(0), out)
    with random_draw(1):
        other = noise(features)
    assert not torch.equal(other, out) and not torch.equal(FeatureNoise(always=True, seed=4).eval()(features), out)
    with random_draw(1):
        assert torch.equal(noise(features), other)


def test_evaluation_gradient_is_exact_and_training_takes_sigma_as_constant():
    features = random_image((2, 3, 2, 3), dtype=torch.float64).requires_grad_()
    noise = FeatureNoise(always=True, channels=3).double()
    assert torch.autograd.gradcheck(noise.eval(), (features,))
    (gradient,) = torch.autograd.grad(noise.train()(features).sum(), features)
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_strength_is_learned():
    features = random_image((2, 3, 4, 4, 4))
    noise = FeatureNoise(channels=3).train()
    torch.manual_seed(0)
    out = noise(features)
    out.sum().backward()
    expected = ((out - features) / 0.25).sum(dim=(0, 2, 3, 4))
    torch.testing.assert_close(noise.alpha.grad, expected.detach(), atol=1e-4, rtol=1e-4)


def test_constant_features_stay_and_have_a_gradient():
    features = torch.ones(1, 2, 3, 3).requires_grad_()
    out = FeatureNoise(always=True).eval()(features)
    assert torch.equal(out, features)
    (gradient,) = torch.autograd.grad(out.sum(), features)
    assert bool(torch.isfinite(gradient).all())


def test_insertion_finds_all_convolutions_and_their_draws_differ():
    network = insert_feature_noise(tiny_segmentation_network(), always=True, channel_wise=True)
    assert network[0].feature_noise.alpha.shape == (4,) and network[2].feature_noise.alpha.shape == (3,)
    assert network[0].feature_noise.seed != network[2].feature_noise.seed
    image = random_image((1, 1, 6, 6, 6))
    clean = tiny_segmentation_network()
    assert not torch.allclose(network(image), clean(image), atol=1e-3)
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.feature_noise.alpha.zero_()
    assert torch.equal(network(image), clean(image))
    assert not network.load_state_dict(clean.state_dict(), strict=False).unexpected_keys
    copy.deepcopy(network).load_state_dict(network.state_dict())


def test_an_attack_averages_over_draws():
    network = insert_feature_noise(tiny_segmentation_network(), alpha=0.5, always=True)
    image, label = random_image((2, 1, 8, 8, 8)), random_label((2, 1, 8, 8, 8))

    def attack(gradient):
        model = AttackedModel(network, precision="float32")
        return PGD(0.1, steps=2, gradient=gradient)(model, image, label).adversarial

    averaged = attack(ExpectationOverTransformation(4))
    torch.testing.assert_close(averaged, attack(ExpectationOverTransformation(4)), rtol=0, atol=0)
    assert not torch.equal(averaged, attack(None))


def test_the_averaged_gradient_is_the_mean_over_the_draws():
    network = insert_feature_noise(tiny_segmentation_network().double(), alpha=0.5, always=True)
    image = random_image((1, 1, 4, 4, 4), dtype=torch.float64)

    def function(parameters):
        logits = network(parameters[0])
        values = (logits**2).flatten(1).sum(dim=1)
        return values, values, logits

    gradients = []
    for draw in range(3):
        with random_draw(draw):
            point = image.clone().requires_grad_()
            gradients.append(torch.autograd.grad((network(point) ** 2).sum(), point)[0])
    assert not torch.allclose(gradients[0], gradients[1])
    found = ExpectationOverTransformation(3).evaluate(function, (image,))
    torch.testing.assert_close(found.gradients[0], torch.stack(gradients).mean(dim=0))


@pytest.mark.filterwarnings("ignore")
def test_compiled_networks_follow_the_draw_too():
    network = insert_feature_noise(tiny_segmentation_network(), always=True)
    compiled = torch.compile(network, backend="eager")
    image = random_image((1, 1, 4, 4, 4))
    torch.testing.assert_close(compiled(image), network(image))
    with random_draw(5):
        named = compiled(image)
        torch.testing.assert_close(named, network(image))
    assert not torch.allclose(named, compiled(image))


@pytest.mark.parametrize("training", [True, False])
def test_autocast_keeps_the_type(training):
    noise = FeatureNoise(always=True).train(training)
    with torch.autocast("cpu", torch.bfloat16):
        out = noise(random_image((1, 2, 4, 4)).bfloat16())
        assert out.dtype == torch.bfloat16 and bool(torch.isfinite(out).all())
        assert noise(random_image((1, 2, 4, 4))).dtype == torch.float32


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="no module of kinds Conv2d"):
        insert_feature_noise(tiny_segmentation_network(), (nn.Conv2d,))
    network = tiny_segmentation_network()
    with pytest.raises(ValueError, match="out_channels, got PReLU"):
        insert_feature_noise(network, (nn.Conv3d, nn.PReLU), channel_wise=True)
    assert len(network.state_dict()) == 5
    with pytest.raises(ValueError, match="already has"):
        insert_feature_noise(insert_feature_noise(network))
    with pytest.raises(ValueError, match="alpha"):
        FeatureNoise(-1.0)
    with pytest.raises(ValueError, match="3 channels"):
        FeatureNoise(channels=3)(torch.zeros(1, 2, 4))


@pytest.mark.gpu
def test_noise_is_made_on_the_gpu_and_follows_the_draw():
    network = insert_feature_noise(tiny_segmentation_network().cuda(), always=True)
    image = random_image((2, 1, 6, 6, 6)).cuda()
    torch.testing.assert_close(network(image), network(image))
    with random_draw(1):
        other = network(image)
    assert other.is_cuda and not torch.allclose(other, network(image), atol=1e-3)
