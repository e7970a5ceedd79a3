# SPDX-License-Identifier: Apache-2.0
"""The smallest perturbation at which Dice has fallen by a given share."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.attacks import PGD, GeometricIntensityAttack, PrescribedDrop, prescribed_drop
from monai_adversarial.data.example import example_case


def test_the_deformation_and_shading_of_each_sample_reach_the_drop_without_folds() -> None:
    model, image, label = example_case(16)
    other = example_case(16, seed=3)
    images, labels = (torch.cat([a.as_tensor(), b.as_tensor()]) for a, b in zip((image, label), other[1:], strict=True))
    attack = GeometricIntensityAttack(10.0, 0.5, steps=4)
    both = prescribed_drop(attack, model, images, labels, drop=0.5, spacing=[6.0] * 3)
    for row, found in enumerate(both):
        assert isinstance(found, PrescribedDrop) and found.reached
        assert abs(found.dice - 0.5 * float(found.result.clean_dice)) <= 0.05
        assert float(found.result.budgets["0_ElasticDeformation_jacobian_minimum"].values) > 0
        # Nothing half as large was enough.
        smaller = [dice for factor, dice in found.tried.items() if factor <= found.factor / 2]
        assert smaller and min(smaller) > found.wanted
        (alone,) = prescribed_drop(
            attack, model, images[row : row + 1], labels[row : row + 1], drop=0.5, spacing=[6.0] * 3
        )
        assert alone.factor == found.factor and alone.dice == pytest.approx(found.dice)


def test_a_larger_drop_takes_a_larger_budget() -> None:
    model, image, label = example_case(16)
    factors = [prescribed_drop(PGD(20, "HU", steps=3), model, image, label, drop=d)[0].factor for d in (0.2, 0.8)]
    assert factors[0] < factors[1] < 1


def test_passes_are_counted_and_organs_chosen() -> None:
    model, image, label = example_case(16)
    calls = 0
    network = model.network

    def counting(seen: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += seen.shape[0]
        return network(seen)

    asked = model.replace(network=counting)
    (found,) = prescribed_drop(PGD(20, "HU", steps=2), asked, image, label, drop=0.5, halvings=3, organs=[3])
    assert found.forwards == calls and found.backwards == 2 * len(found.tried)
    only = PGD(20, "HU", steps=2, classes=[3])(model.replace(scored_classes=[3]), image, label)
    assert found.tried[1.0] == pytest.approx(float(only.adversarial_dice))


def test_what_cannot_be_reached_is_said() -> None:
    model, image, label = example_case(16)
    (found,) = prescribed_drop(PGD(0.1, "HU", steps=1), model, image, label)
    assert math.isinf(found.factor) and not found.reached and list(found.tried) == [1.0]
    with pytest.raises(ValueError, match="drop must be above 0"):
        prescribed_drop(PGD(8, "HU"), model, image, label, drop=0.0)
    with pytest.raises(ValueError, match="drop must be above 0 and the attack untargeted"):
        prescribed_drop(PGD(8, "HU", targeted=True), model, image, label)
