# SPDX-License-Identifier: Apache-2.0
"""Noise on coarse grids: interpolated, and within the budget of the noise."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import PGD, AdditiveNoise, Attack, BiasField, CoarseGrid, SteepestAscent
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.scene import Scene
from tests.attacks.black_boxes import SmoothThreshold, bright_boxes


def test_linear_noise_is_that_of_torch() -> None:
    image = torch.zeros((2, 2, 9, 7, 5))
    bound = CoarseGrid(AdditiveNoise(10.0), 3).bind(Scene(image, (0, 1)))
    grid = torch.randn((2, 2, 3, 3, 3), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(grid, (9, 7, 5), mode="trilinear", align_corners=True)
    torch.testing.assert_close(bound.apply(image, (grid,)), expected)


def test_blocks_are_constant() -> None:
    image = torch.zeros((1, 1, 8, 8))
    bound = CoarseGrid(AdditiveNoise(10.0), 2, "nearest").bind(Scene(image, (0,)))
    grid = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    expected = torch.nn.functional.interpolate(grid, (8, 8), mode="nearest")
    torch.testing.assert_close(bound.apply(image, (grid,)), expected)


def test_a_grid_has_no_more_nodes_than_the_image_voxels() -> None:
    bound = CoarseGrid(AdditiveNoise(0.1), (4, 64)).bind(Scene(torch.zeros((1, 1, 8, 6, 4)), (0,)))
    assert [tuple(zero.shape) for zero in bound.zeros()] == [(1, 1, 4, 4, 4), (1, 1, 8, 6, 4)]


@pytest.mark.parametrize("norm", ["linf", "l2", "rms"])
def test_several_grids_stay_within_the_budget_and_do_harm(norm: str) -> None:
    epsilon = {"linf": 0.1, "l2": 3.0, "rms": 0.1}[norm]
    attack = Attack(CoarseGrid(AdditiveNoise(epsilon, norm), (3, 6)), search=SteepestAscent(0.5), steps=8)
    model, (image, label) = AttackedModel(SmoothThreshold()), bright_boxes()
    result = attack(model, image, label)
    assert bool((result.adversarial_dice < result.clean_dice - 0.1).all())
    assert bool((result.budgets[f"noise_{norm}"].values <= epsilon * 1.0001).all())
    free = PGD(epsilon, norm=norm, steps=20)(model, image, label)
    assert bool((free.adversarial_dice <= result.adversarial_dice + 0.02).all())


def test_gradients_of_the_grids_are_right() -> None:
    image = torch.rand((1, 1, 5, 4, 3), dtype=torch.float64)
    bound = CoarseGrid(AdditiveNoise(10.0), (2, 3)).bind(Scene(image, (0,)))
    grids = tuple(torch.randn_like(zero).requires_grad_() for zero in bound.zeros())
    assert torch.autograd.gradcheck(lambda *parts: bound.apply(image, parts), grids)


def test_region_and_scaling_are_those_of_the_noise() -> None:
    model, (image, label) = AttackedModel(SmoothThreshold()), bright_boxes()
    region = torch.zeros_like(label, dtype=torch.bool)
    region[:, :, :6] = True
    attack = Attack(CoarseGrid(AdditiveNoise(0.1), 4), steps=2).scaled(0.5)
    result = attack(model, image, label, region=region)
    assert torch.equal(result.adversarial[~region], image[~region])
    assert float(result.budgets["noise_linf"].limit) == pytest.approx(0.05)  # type: ignore[arg-type]


def test_what_is_not_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="one number per voxel, such as AdditiveNoise, got BiasField"):
        Attack(CoarseGrid(BiasField(0.3)), steps=2)(SmoothThreshold(), *bright_boxes())
    with pytest.raises(ValueError, match="grids"):
        CoarseGrid(AdditiveNoise(0.1), ())
    with pytest.raises(ValueError, match="mode"):
        CoarseGrid(AdditiveNoise(0.1), 4, "cubic")
