# SPDX-License-Identifier: Apache-2.0
"""Concentration of saliency by hand, and a gradient that differentiates twice."""

from __future__ import annotations

import math

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.data.example import example_case
from monai_adversarial.detection import Detector, SaliencyConcentrationDetector, SaliencyNumbers
from monai_adversarial.detection.saliency import _numbers
from monai_adversarial.models import AttackedModel
from tests.detection.conftest import scores_of_attacks, slope_along


def test_concentration_by_hand() -> None:
    even, one = torch.ones(1, 100), torch.zeros(1, 100)
    one[0, 7] = 2.0
    gini, entropy, first, fifth, size = _numbers(even)[0].tolist()
    assert gini == pytest.approx(0, abs=1e-9) and entropy == pytest.approx(1) and size == pytest.approx(0)
    assert first == pytest.approx(0.01) and fifth == pytest.approx(0.05)
    gini, entropy, first, fifth, size = _numbers(one)[0].tolist()
    assert (
        gini == pytest.approx(0.99) and entropy == pytest.approx(0, abs=1e-9) and size == pytest.approx(math.log(0.02))
    )
    assert first == pytest.approx(1) and fifth == pytest.approx(1)


def test_gradient_through_windows_differentiates_twice() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.Softplus(), torch.nn.Conv2d(6, 3, 1))
    features = SaliencyNumbers(AttackedModel(network.double(), SlidingWindowInferer((8, 8), 2, 0.25)))
    image = torch.rand(2, 1, 8, 14, dtype=torch.float64)
    exact, difference = slope_along(lambda x: features(x, image), image, 1e-6)
    assert exact == pytest.approx(difference, rel=1e-3)


def test_the_attacker_lowers_the_score(tmp_path) -> None:
    pytest.importorskip("sklearn")
    model, image, label = example_case(16)
    detector = SaliencyConcentrationDetector(model).fit(example_case(16, seed)[1] for seed in range(1, 9))
    detector.calibrate((example_case(16, seed)[1] for seed in range(9, 13)), 0.2)
    unaware, adaptive = scores_of_attacks(detector, model, image, label)
    assert adaptive < unaware
    detector.save(tmp_path / "saliency.npz")
    assert torch.equal(Detector.load(tmp_path / "saliency.npz", model).score(image), detector.score(image))
