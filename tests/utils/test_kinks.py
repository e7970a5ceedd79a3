# SPDX-License-Identifier: Apache-2.0
"""Activations with a kink keep values and slopes, and get a second derivative."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from monai_adversarial.utils.kinks import RoundedKinks

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "ReLU": torch.nn.ReLU(),
    "ReLU in place": torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU(inplace=True)),
    "torch.relu": torch.relu,
    "method": lambda value: value.relu(),
    "LeakyReLU": torch.nn.LeakyReLU(0.2),
    "PReLU": torch.nn.PReLU(),
    "PReLU, channels": torch.nn.PReLU(3, init=0.4),
    "function": lambda value: functional.leaky_relu(value, negative_slope=0.3),
}


def slope_and_curvature(activation: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> list[torch.Tensor]:
    """Values, slope, and the derivative of the slope's sum."""
    leaf = image.clone().requires_grad_()
    found = activation(1.0 * leaf)
    # times itself: the slope of a sum of kinks has no graph at all
    (slope,) = torch.autograd.grad((found * leaf.detach()).sum(), leaf, create_graph=True)
    curvature = torch.autograd.grad(slope.sum(), leaf)[0] if slope.requires_grad else torch.zeros_like(leaf)
    return [found.detach(), slope.detach(), curvature]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_slopes_stay_and_the_slope_gets_a_derivative(name: str) -> None:
    image = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    plain = slope_and_curvature(ACTIVATIONS[name], image)
    with RoundedKinks():
        rounded = slope_and_curvature(ACTIVATIONS[name], image)
    assert torch.equal(plain[0], rounded[0]) and torch.equal(plain[1], rounded[1])
    assert not plain[2].any() and rounded[2].any()


def test_the_derivative_is_that_of_a_slope_that_rises_over_the_width() -> None:
    image = torch.linspace(-1, 1, 201, dtype=torch.float64)[None]
    with RoundedKinks(0.5):
        leaf = image.clone().requires_grad_()
        (slope,) = torch.autograd.grad(functional.leaky_relu(leaf, 0.1).sum(), leaf, create_graph=True)
        (found,) = torch.autograd.grad(slope.sum(), leaf)
    risen = (image / (0.5 * image.std())).sigmoid()
    difference = 0.9 * torch.gradient(risen[0], spacing=0.01)[0]
    assert torch.allclose(found[0, 1:-1], difference[1:-1], rtol=1e-2)


def test_samples_do_not_depend_on_each_other() -> None:
    image = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 50.0]).view(
        2, 1, 1, 1
    )
    with RoundedKinks():
        both = slope_and_curvature(torch.relu, image)[2]
        alone = slope_and_curvature(torch.relu, image[:1])[2]
    assert torch.allclose(both[:1], alone)
