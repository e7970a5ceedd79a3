# SPDX-License-Identifier: Apache-2.0
"""Answer and attribution under noise."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.data.example import example_case
from monai_adversarial.detection import NoiseChanges, NoiseSensitivity
from monai_adversarial.models import AttackedModel
from tests.detection.conftest import scores_of_attacks, slope_along


def test_gradient_differentiates_twice() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.Softplus(), torch.nn.Conv2d(6, 3, 1))
    features = NoiseChanges(AttackedModel(network.double()))
    image = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    exact, difference = slope_along(lambda x: features(x, image), image, 1e-6)
    assert exact == pytest.approx(difference, rel=1e-3)


def test_a_linear_network_has_the_same_attribution_under_noise() -> None:
    class Linear(torch.nn.Module):
        def forward(self, image):
            return torch.cat([-image, 2 * image], dim=1)

    image = torch.rand(1, 1, 8, 8) + 1  # class 1 everywhere
    answer, attribution = NoiseChanges(AttackedModel(Linear()))(image, image)[0].tolist()
    assert attribution < -20 and answer > -20


def test_the_attacker_lowers_the_score() -> None:
    pytest.importorskip("sklearn")
    model, image, label = example_case(16)
    detector = NoiseSensitivity(model).fit(example_case(16, seed)[1] for seed in range(1, 9))
    detector.calibrate((example_case(16, seed)[1] for seed in range(9, 13)), 0.2)
    unaware, adaptive = scores_of_attacks(detector, model, image, label, weight=10.0)
    assert adaptive < unaware
