# SPDX-License-Identifier: Apache-2.0
"""Batches attacked by one of several attacks."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import FGSM
from monai_adversarial.engines.attack_mixture import PrepareBatchAttackMixture
from tests.helpers import random_image, tiny_segmentation_network


def changes(seed: int, count: int = 12) -> list[float]:
    attacks = [None, FGSM(0.01), FGSM(0.02)]
    prepare = PrepareBatchAttackMixture(attacks, tiny_segmentation_network(), seed=seed, reference="prediction")
    clean = random_image((1, 1, 8, 8, 8)) * 0.5 + 0.25
    found = []
    for _ in range(count):
        image, target = prepare({"image": clean, "label": clean.clone()})
        assert torch.equal(target, clean)
        found.append(round(float((image - clean).abs().max()), 4))
    return found


def test_every_attack_and_the_clean_batch_have_their_turn() -> None:
    assert set(changes(seed=0)) == {0.0, 0.01, 0.02}


def test_the_order_depends_on_the_seed_alone() -> None:
    assert changes(seed=0) == changes(seed=0) != changes(seed=1)


def test_bad_attacks_are_one_sentence() -> None:
    with pytest.raises(ValueError, match="attacks must hold at least one attack or None, got none"):
        PrepareBatchAttackMixture([], tiny_segmentation_network())
    with pytest.raises(TypeError, match="attacks must be Attack objects or None, got str"):
        PrepareBatchAttackMixture(["pgd"], tiny_segmentation_network())  # type: ignore[list-item]
