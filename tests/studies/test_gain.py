# SPDX-License-Identifier: Apache-2.0
"""The gain field of a picture is what multiplied the image."""

from __future__ import annotations

import torch

from monai_adversarial.attacks import PGD, BiasFieldAttack
from monai_adversarial.studies.gain import gain_in_percent
from tests.helpers import LinearNetwork, random_image


def test_the_gain_is_the_quotient_of_the_images() -> None:
    image = random_image((1, 1, 10, 12, 8)) + 0.5
    label = (image > 1.0).float()
    network = LinearNetwork((-1.0, 1.0), (1.0, -1.0))
    result = BiasFieldAttack(0.3, steps=2, domain="image")(network, image, label)
    gain = gain_in_percent(result)
    assert gain is not None and gain.shape == (10, 12, 8)
    torch.testing.assert_close(image[0, 0] * (1 + gain / 100), result.adversarial[0, 0], rtol=1e-4, atol=1e-4)
    assert 5 < float(gain.abs().max()) <= 30.01


def test_other_attacks_have_none() -> None:
    image = random_image((1, 1, 8, 8, 8))
    assert gain_in_percent(PGD(0.1, steps=1)(LinearNetwork(), image, (image > 0.5).float())) is None
