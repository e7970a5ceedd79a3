# SPDX-License-Identifier: Apache-2.0
"""Masked reconstruction."""

from __future__ import annotations

import torch

from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.masked_autoencoder import (
    MaskedAutoencoderReconstruction,
    MaskedAutoencoderReconstructiond,
)
from tests.helpers import random_image
from tests.purifiers.learned_networks import WINDOW, make, small_network

SEEDLESS = ImageContext()


def test_a_perturbation_cannot_reach_its_own_block() -> None:
    purifier = make(MaskedAutoencoderReconstruction)
    image = random_image((1, 1, 12, 12, 12)) * 0.5 + 0.25
    attacked = image.clone()
    attacked[..., 4:6, 6:8, 4:6] += 0.02
    difference = purifier.purify(attacked, SEEDLESS) - purifier.purify(image, SEEDLESS)
    assert float(difference[..., 4:6, 6:8, 4:6].abs().max()) < 1e-6
    assert float(difference.abs().max()) > 1e-4


def test_it_is_deterministic_and_made_of_the_passes_over_the_parts() -> None:
    purifier = make(MaskedAutoencoderReconstruction)
    network = purifier._network
    image = random_image((2, 1, 8, 10, 8))
    out = purifier.purify(image, SEEDLESS)
    assert torch.equal(purifier.purify(image, SEEDLESS), out) and not purifier.random
    part = network.partition(image)  # type: ignore[operator]
    for number in range(4):
        hidden = part == number
        garbage = torch.where(hidden, torch.full_like(image, 0.9), image)  # what is hidden does not matter
        predicted = network.predict(garbage, hidden[None, None])  # type: ignore[operator]
        torch.testing.assert_close(out[:, 0, hidden], predicted[:, 0, hidden], rtol=1e-4, atol=1e-5)


def test_dictionary_form() -> None:
    network = small_network(MaskedAutoencoderReconstruction)
    form = MaskedAutoencoderReconstructiond("image", network=network, intensity=WINDOW)
    assert form({"image": random_image((1, 8, 8, 8))})["image"].shape == (1, 8, 8, 8)
