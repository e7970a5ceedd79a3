# SPDX-License-Identifier: Apache-2.0
"""Denoising blocks: identity at first, each operation against its definition, insertion into networks."""

from __future__ import annotations

import copy

import pytest
import scipy.ndimage
import torch
from monai.networks.nets import UNet
from torch import nn

from monai_adversarial.networks.feature_denoising import (
    FEATURE_DENOISING_KINDS,
    FeatureDenoising,
    insert_feature_denoising,
)
from tests.helpers import random_image, tiny_segmentation_network


def unet(dimensions: int = 3) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet(dimensions, 1, 3, channels=(4, 8, 16), strides=(2, 2), num_res_units=1).eval()


def block(kind: str, dimensions: int = 3, **options) -> FeatureDenoising:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FeatureDenoising(4, dimensions, kind, **options)


@pytest.mark.parametrize("norm", ["batch", ("instance", {"affine": True}), None])
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", FEATURE_DENOISING_KINDS)
def test_a_new_block_is_the_identity_and_learns(kind, dimensions, norm):
    features = random_image((2, 4, *(5, 4, 3)[:dimensions]))
    denoising = block(kind, dimensions, norm=norm)
    assert torch.equal(denoising(features), features)
    assert torch.equal(denoising.eval()(features), features)
    (denoising.train()(features) * random_image(features.shape, seed=1)).sum().backward()
    learning = denoising.convolution.conv if norm is None else denoising.normalization
    assert float(learning.weight.grad.abs().max()) > 0
    with torch.no_grad():
        learning.weight.fill_(0.5)
    assert not torch.allclose(denoising(features), features, atol=1e-3)


def brute_force(denoising: FeatureDenoising, features: torch.Tensor, radius: float, softmax: bool) -> torch.Tensor:
    """The definition, position by position, over positions (repeated at the border) within ``radius``."""
    theta, phi = denoising.theta(features), denoising.phi(features)
    out = torch.zeros_like(features)
    sizes = features.shape[2:]
    for place in torch.cartesian_prod(*(torch.arange(n) for n in sizes)).tolist():
        if radius == float("inf"):
            near = torch.cartesian_prod(*(torch.arange(n) for n in sizes)).tolist()
        else:
            steps = torch.cartesian_prod(*(torch.arange(-1, 2) for _ in sizes)).tolist()
            near = [[min(max(p + s, 0), n - 1) for p, s, n in zip(place, step, sizes, strict=True)] for step in steps]
        query = theta[(..., *place)]
        products = torch.stack([(query * phi[(..., *j)]).sum(1) for j in near])
        weights = (products / query.shape[1] ** 0.5).softmax(0) if softmax else products / len(near)
        out[(..., *place)] = sum(w[:, None] * features[(..., *j)] for w, j in zip(weights, near, strict=True))
    return out


@pytest.mark.parametrize("embed", [True, False])
@pytest.mark.parametrize("sizes", [(4, 3), (3, 4, 2)])
@pytest.mark.parametrize(
    ("kind", "radius", "softmax"),
    [("nonlocal_gaussian", float("inf"), True), ("nonlocal_dot", float("inf"), False), ("bilateral", 1, True)],
)
def test_weighted_means_are_their_definition(kind, radius, softmax, sizes, embed):
    features = random_image((2, 4, *sizes), dtype=torch.float64) * 3
    denoising = block(kind, len(sizes), embed=embed).double()
    with torch.no_grad():
        torch.testing.assert_close(denoising.denoise(features), brute_force(denoising, features, radius, softmax))


@pytest.mark.parametrize("sizes", [(6, 5), (5, 4, 6)])
def test_filters_are_those_of_scipy(sizes):
    features = random_image((1, 4, *sizes), dtype=torch.float64)
    size = (1, 1) + (3,) * len(sizes)
    mean = scipy.ndimage.uniform_filter(features.numpy(), size, mode="nearest")
    median = scipy.ndimage.median_filter(features.numpy(), size, mode="nearest")
    gaussian = scipy.ndimage.gaussian_filter(
        features.numpy(), (0, 0) + (1.0,) * len(sizes), mode="nearest", truncate=3.0
    )
    for kind, expected in (("mean", mean), ("median", median), ("gaussian", gaussian)):
        out = block(kind, len(sizes)).denoise(features)
        torch.testing.assert_close(out, torch.from_numpy(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", FEATURE_DENOISING_KINDS)
def test_gradients_are_exact(kind):
    denoising = block(kind, 2).double().eval()
    with torch.no_grad():
        denoising.normalization.weight.fill_(1.0)
    features = random_image((1, 4, 3, 4), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(denoising, (features,))


def test_above_the_cap_keys_are_averages_over_cells_and_queries_are_not():
    features = random_image((1, 4, 4, 6, 4))
    denoising = block("nonlocal_gaussian", max_positions=12)
    assert denoising._pool(features).shape == (1, 4, 2, 3, 2)
    assert denoising._pool(random_image((1, 4, 2, 31, 31))).shape == (1, 4, 1, 3, 3)
    with torch.no_grad():
        out = denoising.denoise(features)
    assert out.shape == features.shape and len(out[0, 0].unique()) > 12
    constant_in_cells = features[:, :, ::2, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    constant_in_cells = constant_in_cells.repeat_interleave(2, 4)  # then averaging loses nothing
    with torch.no_grad():
        torch.testing.assert_close(
            denoising.denoise(constant_in_cells), block("nonlocal_gaussian").denoise(constant_in_cells)
        )


@pytest.mark.parametrize("kind", FEATURE_DENOISING_KINDS)
def test_autocast_keeps_the_type_and_almost_the_value(kind):
    denoising = block(kind).eval()
    with torch.no_grad():
        denoising.normalization.weight.fill_(1.0)
        features = random_image((1, 4, 6, 6, 6))
        expected = denoising(features)
        with torch.autocast("cpu", torch.bfloat16):
            out = denoising(features)
            half = denoising(features.bfloat16())
    assert out.dtype == torch.float32 and half.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected, atol=0.05, rtol=0)
    torch.testing.assert_close(half.float(), expected, atol=0.1, rtol=0)


@pytest.mark.parametrize("kind", FEATURE_DENOISING_KINDS)
def test_compiles_whole(kind):
    denoising = block(kind, max_positions=30).eval()  # fewer than there are, so that the pooling is compiled too
    with torch.no_grad():
        denoising.normalization.weight.fill_(1.0)
    features = random_image((1, 4, 4, 4, 4))
    compiled = torch.compile(denoising, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(features), denoising(features))


@pytest.mark.parametrize("kind", FEATURE_DENOISING_KINDS)
def test_state_dict_round_trip(kind):
    trained, fresh = block(kind), FeatureDenoising(4, 3, kind)
    with torch.no_grad():
        trained.normalization.weight.uniform_()
    fresh.load_state_dict(trained.state_dict())
    features = random_image((1, 4, 4, 4, 4))
    assert torch.equal(trained.eval()(features), fresh.eval()(features))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_inserted_blocks_change_nothing_until_they_are_trained(dimensions):
    image = random_image((1, 1, *[8] * dimensions))
    network = unet(dimensions)
    before, clean_state = network(image), copy.deepcopy(network.state_dict())
    after = ["model.0", "model.1.submodule.0.conv.unit0"]  # a residual unit, and a convolution that is a Sequential
    assert insert_feature_denoising(network, after, example=image, kind="median") is network
    assert torch.equal(network(image), before)
    blocks = [module for module in network.modules() if isinstance(module, FeatureDenoising)]
    assert [b.channels for b in blocks] == [4, 8] and not any(b.training for b in blocks)
    assert not network.load_state_dict(clean_state, strict=False).unexpected_keys
    for b in blocks:
        with torch.no_grad():
            b.normalization.weight.fill_(1.0)
        assert not torch.allclose(network(image), before)
        before = network(image)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(image), before)
    with torch.no_grad():
        twin.model[0].feature_denoising.normalization.weight.zero_()
    assert not torch.equal(twin(image), before) and torch.equal(network(image), before)
    torch.testing.assert_close(torch.compile(network, backend="eager")(image), before)


def test_the_dry_run_leaves_the_network_as_it_was():
    network = unet().train()
    network.model[0].eval()
    state = copy.deepcopy(network.state_dict())
    modes = {name: module.training for name, module in network.named_modules()}
    insert_feature_denoising(network, ["model.0.residual"], example=random_image((2, 1, 8, 8, 8)))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())
    assert all(module.training == modes[name] for name, module in network.named_modules() if name in modes)
    assert all(weight.requires_grad for weight in network.parameters())


def test_given_channels_need_no_example():
    network = insert_feature_denoising(tiny_segmentation_network(features=4), ["0", "1"], channels=4)
    assert sum(isinstance(module, FeatureDenoising) for module in network.modules()) == 2
    assert network(random_image((1, 1, 4, 4, 4))).shape == (1, 3, 4, 4, 4)


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle, self.list = nn.Conv3d(1, 1, 1), nn.Conv3d(1, 1, 1), nn.ModuleList([nn.ReLU()])

    def forward(self, image):
        return self.used(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"after": ["model.0.con"]}, "'model.0.con': did you mean 'model.0.conv'"),
        ({"after": []}, "at least one"),
        ({"after": ["model.0", "model.0"]}, "different"),
        ({"after": ["model.0"], "example": None}, "either channels or example"),
        ({"after": ["model.0"], "channels": 4}, "either channels or example"),
        ({"after": ["model.0"], "channels": [4, 4], "example": None}, "one number for each of 1"),
        ({"after": ["model.0"], "kind": "wiener"}, "kind must be one of"),
        ({"after": ["model.0"], "kernel_size": 2}, "odd"),
        ({"after": ["model.0"], "norm": "instance"}, "scale and a shift"),
    ],
)
def test_bad_insertions_stop_and_leave_the_network_alone(arguments, message):
    network = unet()
    keys = list(network.state_dict())
    with pytest.raises(ValueError, match=message):
        insert_feature_denoising(network, **{"example": random_image((1, 1, 8, 8, 8)), **arguments})
    assert list(network.state_dict()) == keys


def test_modules_without_an_output_of_their_own_are_refused():
    image = random_image((1, 1, 4, 4, 4))
    with pytest.raises(ValueError, match="does not call its module 'idle'"):
        insert_feature_denoising(Holder(), ["idle"], example=image)
    with pytest.raises(ValueError, match="name a module inside it"):
        insert_feature_denoising(Holder(), ["used", "list"], channels=1)
    network = insert_feature_denoising(Holder(), ["used"], example=image)
    with pytest.raises(ValueError, match="already has"):
        insert_feature_denoising(network, ["used"], example=image)


def test_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(batch, 4, 3 spatial"):
        block("mean")(random_image((1, 4, 5, 5)))


def test_an_inserted_network_can_be_saved_whole(tmp_path):
    image = random_image((1, 1, 8, 8, 8))
    network = insert_feature_denoising(unet(), ["model.0"], example=image)
    with torch.no_grad():
        network.model[0].feature_denoising.normalization.weight.fill_(1.0)
    torch.save(network, tmp_path / "network.pt")
    loaded = torch.load(tmp_path / "network.pt", weights_only=False)
    assert torch.equal(loaded(image), network(image))


def test_second_derivatives_of_attention_in_the_mode_that_the_documentation_names():
    denoising = block("nonlocal_gaussian", 2).double().eval()
    with torch.no_grad():
        denoising.normalization.weight.fill_(1.0)
    features = random_image((1, 4, 2, 3), dtype=torch.float64).requires_grad_()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(denoising, (features,))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", FEATURE_DENOISING_KINDS)
def test_same_on_a_gpu(kind):
    denoising = block(kind, norm=None).eval()
    with torch.no_grad():
        denoising.convolution.conv.weight.fill_(0.3)
        features = random_image((2, 4, 6, 5, 4))
        expected = denoising(features)
        torch.testing.assert_close(denoising.cuda()(features.cuda()).cpu(), expected, atol=1e-3, rtol=1e-3)
