# SPDX-License-Identifier: Apache-2.0
"""MAFL on the example."""

from __future__ import annotations

import torch

from monai_adversarial.attacks import MAFL, PGD
from monai_adversarial.attacks.objectives.low_frequency_penalized import low_frequencies
from monai_adversarial.attacks.targets import shifted_organ
from monai_adversarial.data.example import example_case

LAYERS = ["smoothing"]


def test_the_wanted_mask_is_drawn_within_the_radius() -> None:
    model, image, label = example_case()
    wanted = shifted_organ(label, 1, (0, 9, 0))
    reached = []
    for epsilon in (4, 12, 36):
        result = MAFL(epsilon, LAYERS, "HU", steps=10)(model, image, wanted, truth=label)
        assert float((result.adversarial - image).abs().max()) <= epsilon
        reached.append(float(result.adversarial_dice))
    assert reached[0] < reached[1] < reached[2]
    bound, parameters = result.bound, result.parameters
    for stream in (1, 2):
        random = bound.finished(bound.scene.image, bound.random_control(bound.scene.generators(stream), parameters))
        unchanged = PGD(0, "HU", steps=1, targeted=True)(model, random, wanted)
        assert float(unchanged.clean_dice) < reached[2] - 0.2


def test_low_frequencies_stay_more_than_under_pgd() -> None:
    model, image, label = example_case()
    wanted = shifted_organ(label, 1, (0, 9, 0))
    options = {"steps": 10, "targeted": True, "random_start": False}
    plain = PGD(30, "HU", objective="dice_ce", **options)(model, image, wanted)
    held = MAFL(30, LAYERS, "HU", low_frequency_weight=100.0, steps=10)(model, image, wanted)
    left = [float(low_frequencies(one.adversarial - image).abs().mean()) for one in (held, plain)]
    assert left[0] < 0.8 * left[1]


def test_an_image_with_the_wanted_anatomy_attracts() -> None:
    model, image, label = example_case(24)
    _, other, wanted = example_case(24, seed=3)
    turned, wanted = other.as_tensor().flip(2), wanted.as_tensor().flip(2)
    result = MAFL(40, LAYERS, "HU", toward=turned, steps=8)(model, image, wanted, truth=label)
    assert float(result.adversarial_dice) > float(result.clean_dice)
    nothing = MAFL(0, LAYERS, "HU", steps=2)(model, image, wanted)
    assert torch.equal(nothing.adversarial, image)
