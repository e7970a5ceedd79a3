# SPDX-License-Identifier: Apache-2.0
"""The attacker who hides in the distribution of clean features."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import example_case
from monai_adversarial.detection import GaussianDensity, HidingFeatures, MahalanobisDistance

pytest.importorskip("sklearn")


def test_it_gets_closer_to_clean_features_and_so_to_another_detector() -> None:
    model, image, label = example_case(16)
    clean = [example_case(16, seed)[1] for seed in range(1, 13)]
    density, other = MahalanobisDistance(model).fit(clean[:8]), GaussianDensity(model).fit(clean[4:])
    unaware = PGD(8, units="HU", steps=4)(model, image, label)
    objective = HidingFeatures("dice_ce", density, weight=3.0)
    hidden = PGD(8, units="HU", steps=4, objective=objective)(model, image, label, start=unaware.parameters)
    assert float(density.score(hidden.adversarial)) < float(density.score(unaware.adversarial))
    assert float(other.score(hidden.adversarial)) < float(other.score(unaware.adversarial))
    term = objective.image_term(unaware.bound, unaware.adversarial.as_tensor())
    expected = -3 * float(density.score(unaware.adversarial)) / len(density.state["kept"])
    assert float(term.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_density_that_saw_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="density must have seen clean images"):
        HidingFeatures("dice_ce", GaussianDensity(torch.nn.Identity()))
    with pytest.raises(TypeError, match="density"):
        HidingFeatures("dice_ce", "gaussian")
