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


@pytest.mark.parametrize("activation", [torch.nn.ReLU, torch.nn.PReLU, torch.nn.LeakyReLU])
def test_saliency_of_a_network_of_kinks_has_a_gradient_to_follow(activation: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 8, 3, padding=1), activation(), torch.nn.Conv2d(8, 8, 3, padding=1), activation()]
    last = torch.nn.Conv2d(8, 3, 1)
    with torch.no_grad():
        last.bias[1] += 2.0  # something is found everywhere
    model = AttackedModel(torch.nn.Sequential(*layers, last).eval(), output_values="logits")
    features = SaliencyNumbers(model)
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    before = features(image, image)
    moving = image.clone().requires_grad_()
    found = features(moving, image)
    assert torch.equal(found.detach(), before)  # what decides is the saliency of the network as it is
    # the Gini coefficient goes both ways, further than random changes of that size take it
    draw = torch.Generator().manual_seed(2)
    randomly = torch.cat([image + 0.1 * torch.randn(image.shape, generator=draw).sign() for _ in range(10)])
    reached = [_moved(features, image, direction) for direction in (1, -1)]
    others = features(randomly, randomly)[:, 0]
    assert reached[0] > float(others.max()) and reached[1] < float(others.min())


def _moved(features: SaliencyNumbers, image: torch.Tensor, direction: int) -> float:
    """The Gini coefficient after 10 steps along its gradient, at most 0.1 from the image."""
    reached = image
    for _ in range(10):
        leaf = reached.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(features(leaf, image)[:, 0].sum(), leaf)
        reached = (reached + direction * 0.02 * gradient.sign()).clamp(image - 0.1, image + 0.1)
    return float(features(reached, reached)[0, 0])
