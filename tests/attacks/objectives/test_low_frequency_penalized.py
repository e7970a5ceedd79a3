# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch

from monai_adversarial.attacks import PGD, FeatureDistance, LowFrequencyPenalized
from monai_adversarial.attacks.objectives.low_frequency_penalized import low_frequencies
from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_low_frequencies_are_the_coarsest_haar_band(axes: int, levels: int) -> None:
    image = torch.rand((1, 1, *[8] * axes), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    band = pywt.wavedecn(image[0, 0].numpy(), "haar", level=levels)[0] / 2 ** (axes * levels / 2)
    np.testing.assert_allclose(low_frequencies(image, levels)[0, 0].numpy(), band, atol=1e-12)


def test_the_value_is_the_objective_less_the_change() -> None:
    model, image, label = example_case(16)
    model = AttackedModel(model.network, intensity=model.intensity, image_units="HU", precision="float32")
    charged = LowFrequencyPenalized("dice", weight=0.5, low_frequency_weight=7.0)
    found = PGD(8, "HU", steps=3, objective=charged)(model, image, label)
    plain = PGD(8, "HU", steps=1, objective="dice", random_start=False)(model, found.adversarial, label)
    shares = [((one.as_tensor() + 160) / 500).clamp(0, 1) for one in (found.adversarial, image)]
    change = low_frequencies(shares[0] - shares[1]).abs().mean()
    expected = 0.5 * plain.objective_history[0] - 7.0 * change
    torch.testing.assert_close(found.objective, expected, atol=2e-5, rtol=0)


def test_more_weight_keeps_more_and_none_is_the_objective() -> None:
    model, image, label = example_case()
    left = []
    for weight in (0.0, 3.0, 100.0):
        attack = PGD(8, "HU", steps=5, objective=LowFrequencyPenalized("dice", low_frequency_weight=weight))
        left.append(float(low_frequencies(attack(model, image, label).adversarial - image).abs().mean()))
    assert left[2] < left[1] < left[0]
    free = PGD(8, "HU", steps=5, objective="dice")(model, image, label)
    none = PGD(8, "HU", steps=5, objective=LowFrequencyPenalized("dice", low_frequency_weight=0))(model, image, label)
    assert torch.equal(free.adversarial, none.adversarial)


def test_what_is_told_wrongly_is_refused() -> None:
    with pytest.raises(ValueError, match="levels"):
        LowFrequencyPenalized(levels=0)
    with pytest.raises(ValueError, match="low_frequency_weight"):
        LowFrequencyPenalized(low_frequency_weight=-1)
    with pytest.raises(TypeError, match="AdditiveObjective"):
        LowFrequencyPenalized(FeatureDistance(["0"]))
