# SPDX-License-Identifier: Apache-2.0
"""ChenAttack: a generator that lowers Dice by about what it is told, without folds, and two scores."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import ElasticAttack
from monai_adversarial.data.example import example_case
from monai_adversarial.generators import ChenAttack
from monai_adversarial.metrics.dice import mean_foreground_dice

DROPS = (0.1, 0.4, 0.7)


@pytest.fixture(scope="module")
def trained() -> ChenAttack:
    attack = ChenAttack(6.0, 0.06, channels=(4, 8), rate=5e-3, latent=2, realism=0.1)
    attack.fit(example_case(16)[0], [example_case(16, seed=seed)[1:] for seed in range(4)], epochs=20)
    return attack


def test_dice_falls_by_about_what_is_prescribed_on_a_new_image(trained: ChenAttack) -> None:
    model, image, label = example_case(16, seed=9)
    lost = []
    for drop in DROPS:
        trained.search.drop = drop  # type: ignore[attr-defined]
        result = trained(model, image, label)
        lost.append(float(result.clean_dice - result.adversarial_dice))
        assert float(result.budgets["0_ElasticDeformation_jacobian_minimum"].values) > 0.1
        assert float(result.budgets["0_ElasticDeformation_displacement_euclidean"].values) <= 6
        assert float(result.budgets["1_BiasField_gain"].values) <= 6 + 1e-3
        assert result.backwards == 0
    assert lost[0] < lost[1] < lost[2]
    assert all(abs(found - drop) < 0.2 for found, drop in zip(lost, DROPS, strict=True)), lost


def test_both_scores_are_those_of_the_moved_and_the_unmoved_label() -> None:
    model, image, label = example_case(16)
    result = ElasticAttack(8.0, steps=3)(model, image, label)
    prediction = model.network(model.intensity(result.adversarial.as_tensor())).argmax(dim=1, keepdim=True)
    moved, unmoved = (
        mean_foreground_dice(prediction, torch.as_tensor(one), 4, "softmax") for one in (result.label, label)
    )
    assert torch.allclose(result.adversarial_score, moved) and torch.allclose(result.unmoved_score, unmoved)
    assert not torch.equal(moved, unmoved)


def test_draws_of_the_latent_differ_and_repeat(trained: ChenAttack) -> None:
    model, image, _ = example_case(16, seed=9)
    first, again, other = (trained.generate(model, image, draw=draw).as_tensor() for draw in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_what_is_told_wrongly_is_refused() -> None:
    with pytest.raises(ValueError, match="lowest < highest"):
        ChenAttack(drops=(0.8, 0.1))
    with pytest.raises(ValueError, match="targeted must be False"):
        ChenAttack(targeted=True)
