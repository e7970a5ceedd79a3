# SPDX-License-Identifier: Apache-2.0
"""``predict`` gives what the attack scores."""

from __future__ import annotations

import torch

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import example_case
from monai_adversarial.models import predict


def test_it_is_what_an_attack_scores() -> None:
    model, image, label = example_case()
    result = PGD(8, units="HU", steps=2)(model, image, label)
    assert not torch.equal(result.prediction, result.clean_prediction)
    assert torch.equal(predict(model, image), result.clean_prediction)
    assert torch.equal(predict(model, result.adversarial), result.prediction)


def test_it_needs_no_attack_before_it_and_leaves_the_network_as_it_was() -> None:
    model, image, _ = example_case()
    model.network.train()
    first = predict(model, image)
    assert model.network.training
    assert all(weight.requires_grad for weight in model.network.parameters())
    assert first.shape == (1, 1, 32, 32, 32) and first.dtype == torch.uint8
    assert set(first.unique().tolist()) == {0, 1, 2, 3}


def test_a_bare_network_gets_windowed_images() -> None:
    model, image, _ = example_case()
    windowed = ((image + 160) / 500).clamp(0, 1)
    assert torch.equal(predict(model.network, windowed), predict(model, image))


def test_masks_of_sigmoid_outputs() -> None:
    model, image, _ = example_case()
    masks = predict(model.replace(activation="sigmoid"), image)
    assert masks.shape == (1, 4, 32, 32, 32)
