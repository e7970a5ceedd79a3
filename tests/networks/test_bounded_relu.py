# SPDX-License-Identifier: Apache-2.0
"""Bounded ReLU and the replacement of activations."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import UNet
from torch import nn

from monai_adversarial.networks.bounded_relu import BoundedReLU, replace_activations
from tests.helpers import random_image, tiny_segmentation_network


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_and_gradients(learnable, dtype):
    activation = BoundedReLU(2.0, learnable)
    features = torch.tensor([-3.0, 0.5, 1.5, 7.0, 9.0], dtype=dtype, requires_grad=True)
    out = activation(features)
    assert out.dtype == dtype and out.tolist() == pytest.approx([0.0, 0.5, 1.5, 2.0, 2.0])
    out.sum().backward()
    assert features.grad.tolist() == [0.0, 1.0, 1.0, 0.0, 0.0]
    if learnable:  # two features at the bound, times the derivative of the exponential
        assert float(activation.log_bound.grad) == pytest.approx(4.0, rel=0.01)
        assert activation.bound.item() == pytest.approx(2.0)
    else:
        assert not activation.state_dict()


def test_state_compile_and_autocast():
    trained, fresh = BoundedReLU(3.0, learnable=True), BoundedReLU(1.0, learnable=True)
    fresh.load_state_dict(trained.state_dict())
    features = 5 * random_image((2, 3, 4, 4))
    assert torch.equal(fresh(features), trained(features))
    torch.testing.assert_close(torch.compile(trained, backend="eager", fullgraph=True)(features), trained(features))
    with torch.autocast("cpu", torch.bfloat16):
        assert trained(features.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("dimensions", [2, 3])
def test_all_activations_of_a_unet_are_replaced(dimensions):
    network = UNet(dimensions, 1, 2, channels=(4, 8), strides=(2,), num_res_units=1)
    expected = sum(isinstance(module, nn.PReLU) for module in network.modules())
    assert replace_activations(network, make=lambda: BoundedReLU(0.5)) == expected > 0
    assert not any(isinstance(module, nn.PReLU) for module in network.modules())
    assert sum(isinstance(module, BoundedReLU) for module in network.modules()) == expected
    assert network(random_image((1, 1, *[8] * dimensions))).shape == (1, 2, *[8] * dimensions)


def test_shared_activations_stay_shared():
    shared = nn.ReLU()
    network = nn.Sequential(shared, nn.Linear(2, 2), shared, nn.Sequential(shared)).eval()
    assert replace_activations(network) == 1
    assert network[0] is network[2] is network[3][0] and not network[0].training


def test_the_bound_holds_inside_the_network():
    network = tiny_segmentation_network()
    replace_activations(network, (nn.PReLU,), lambda: BoundedReLU(0.1))
    inner = network[:2](100 * random_image((1, 1, 8, 8, 8))).detach()
    assert float(inner.max()) == pytest.approx(0.1) and float(inner.min()) == 0.0


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="nothing to replace"):
        replace_activations(tiny_segmentation_network(), (nn.ReLU,))
    with pytest.raises(ValueError, match="is one itself"):
        replace_activations(nn.ReLU())
    with pytest.raises(ValueError, match="bound"):
        BoundedReLU(0.0)
