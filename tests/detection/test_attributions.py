# SPDX-License-Identifier: Apache-2.0
"""Attributions add up to what they explain."""

from __future__ import annotations

import torch

from monai_adversarial.detection.attributions import confidence_of, gradient_of_answer, integrated_gradients
from monai_adversarial.models import AttackedModel


def test_attributions_add_up_to_the_difference_from_an_empty_image() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3), torch.nn.Softplus(), torch.nn.Conv2d(6, 3, 3)).double()
    model = AttackedModel(network)
    image = torch.rand(2, 1, 9, 9, dtype=torch.float64)
    logits = network(image)
    confidence = confidence_of(model, logits)
    found = integrated_gradients(model, network, image, steps=64)
    expected = confidence(logits) - confidence(network(torch.zeros_like(image)))
    assert torch.allclose(found.flatten(1).sum(dim=1), expected, rtol=1e-3)


def test_the_background_is_not_explained() -> None:
    model = AttackedModel(torch.nn.Identity())
    logits = torch.tensor([[[5.0, 0.0, 1.0], [1.0, 2.0, 0.0], [0.0, 1.0, 3.0]]])  # background, class 1, class 2
    assert confidence_of(model, logits)(logits).tolist() == [5.0]
    gradient, any_found = gradient_of_answer(model, lambda x: x, logits)
    assert gradient[0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 1]] and any_found.tolist() == [True]
    assert not bool(gradient_of_answer(model, lambda x: x, logits[:, :, :1])[1])
