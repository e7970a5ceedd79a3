# SPDX-License-Identifier: Apache-2.0
"""Numbers of windows are averaged, and a function that is computed again has the gradient of the function."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.detection.windowed import mean_over_windows, recomputed
from monai_adversarial.models import AttackedModel


def test_a_function_that_differentiates_inside_has_its_gradient() -> None:
    image = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def function(x):
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(leaf.pow(4).sum(), leaf, create_graph=x.requires_grad)
        return slope.sum(dim=1), x.sum(dim=1)

    moving = image.clone().requires_grad_()
    first, second = recomputed(function, moving)
    (gradient,) = torch.autograd.grad((first + 2 * second).sum(), moving)
    assert torch.allclose(gradient, 12 * image.square() + 2)
    assert torch.allclose(recomputed(function, image)[0], 4 * image.pow(3).sum(dim=1))


@pytest.mark.parametrize("one_by_one", [False, True])
def test_windows_are_averaged_for_each_image(one_by_one) -> None:
    model = AttackedModel(torch.nn.Conv1d(1, 2, 1), SlidingWindowInferer((4,), 3, 0.0))
    image = torch.arange(16.0).view(2, 1, 8)
    sizes = []

    def look(ask, one, other):
        sizes.append(len(one))
        assert ask(one).shape == (len(one), 2, 4)
        return one.flatten(1).mean(dim=1), other.flatten(1).amax(dim=1)

    mean, largest = mean_over_windows(model, [image, 10 * image], image, look, one_by_one)
    assert mean.tolist() == [3.5, 11.5] and largest.tolist() == [50.0, 130.0]
    assert sizes == ([1] * 4 if one_by_one else [3, 1])
