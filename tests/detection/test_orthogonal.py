# SPDX-License-Identifier: Apache-2.0
"""What is left of the attack's gradient does not move the detector's score."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.attacks import PGD, NaturalEvolution
from monai_adversarial.attacks.gradients import Evaluation, GradientEstimator
from monai_adversarial.data.example import example_case
from monai_adversarial.detection import Detector, Evading, FrequencyProfile, OrthogonalGradient

pytest.importorskip("sklearn")


class Given(GradientEstimator):
    """A direction that is the same everywhere."""

    def __init__(self, direction: torch.Tensor) -> None:
        self.direction = direction

    def evaluate(self, function, parameters, scale=1.0):
        zero = torch.zeros(len(self.direction))
        return Evaluation(zero, zero, (self.direction,), None, 1, 1)


class Brightness(Detector):
    needs_fit = False

    def _suspicion(self, image, like, smooth):
        return image.flatten(1).mean(dim=1).double()


def test_the_detectors_direction_is_taken_out_and_followed_down_while_it_is_suspicious() -> None:
    detector = Brightness(torch.nn.Identity())
    detector.calibrate(torch.linspace(-1, 1, 9).view(9, 1, 1, 1).expand(9, 1, 4, 4), 0.1)
    image = torch.cat([torch.full((1, 1, 4, 4), -50.0), torch.full((1, 1, 4, 4), 50.0)])
    result = PGD(8, units="network", steps=1)(torch.nn.Conv2d(1, 2, 1), image)
    direction = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    estimator = OrthogonalGradient(detector, Given(direction)).begin(result.bound, 1)
    (found,) = estimator.evaluate(None, result.bound.zeros()).gradients
    left = direction - direction.mean(dim=(2, 3), keepdim=True)  # the brightness is the same in all voxels
    assert torch.allclose(found[0], left[0], atol=1e-5)
    assert torch.allclose(found[1], left[1] - left[1].norm() / 4, atol=1e-5)


def test_it_gets_past_the_detector() -> None:
    model, image, label = example_case(16)
    detector = FrequencyProfile(model, bands=4).fit(example_case(16, seed)[1] for seed in range(1, 9))
    detector.calibrate((example_case(16, seed)[1] for seed in range(9, 13)), 0.2)
    unaware = PGD(8, units="HU", steps=5)(model, image, label)
    aware = PGD(8, "HU", steps=5, objective=Evading("dice_ce", detector, 0.3), gradient=OrthogonalGradient(detector))
    found = aware(model, image, label)
    assert bool(found.success) and float(detector.score(found.adversarial)) < float(detector.score(unaware.adversarial))


def test_what_is_told_wrongly_is_refused() -> None:
    detector = Brightness(torch.nn.Identity())
    with pytest.raises(ValueError, match="must have a threshold to evade"):
        OrthogonalGradient(detector)
    detector.calibrate(torch.rand(9, 1, 4, 4), 0.1)
    with pytest.raises(ValueError, match="estimator must differentiate, got NaturalEvolution"):
        OrthogonalGradient(detector, NaturalEvolution())
