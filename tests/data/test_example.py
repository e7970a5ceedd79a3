# SPDX-License-Identifier: Apache-2.0
"""The case that examples attack."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case


def test_network_segments_the_image_and_an_attack_of_8_hu_changes_that() -> None:
    model, image, label = example_case()
    assert label.unique().tolist() == list(range(len(EXAMPLE_CLASSES)))
    result = PGD(8, units="HU", steps=5)(model, image, label)
    assert result.clean_dice.item() > 0.9
    assert result.adversarial_dice.item() < 0.4


def test_the_same_arguments_give_the_same_case() -> None:
    first, second = example_case(24, seed=3), example_case(24, seed=3)
    assert torch.equal(first[1].as_tensor(), second[1].as_tensor())
    assert not torch.equal(first[1].as_tensor(), example_case(24, seed=4)[1].as_tensor())


def test_a_size_in_which_no_organ_fits_is_refused() -> None:
    with pytest.raises(ValueError, match="size"):
        example_case(8)
