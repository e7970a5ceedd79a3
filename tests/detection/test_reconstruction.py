# SPDX-License-Identifier: Apache-2.0
"""MagNet's two detectors."""

from __future__ import annotations

import math

import pytest
import torch

from monai_adversarial.data.example import example_case
from monai_adversarial.detection import Detector, ReconstructionDivergence, ReconstructionError
from monai_adversarial.models import AttackedModel
from monai_adversarial.transforms import AutoencoderDenoise, GaussianDenoise
from tests.detection.conftest import scores_of_attacks


class Halving(torch.nn.Module):
    def forward(self, image):
        return image / 2


class Two(torch.nn.Module):
    def forward(self, image):
        return torch.cat([image, -image], dim=1)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_error_of_an_autoencoder_by_hand(norm) -> None:
    purifier = AutoencoderDenoise(network=Halving(), window=(0.0, 100.0))
    detector = ReconstructionError(
        AttackedModel(Two(), intensity={"a_min": 0, "a_max": 100}, image_units="HU"), purifier, norm
    )
    image = torch.full((1, 1, 8, 8, 8), 40.0)
    image[..., 4:] = 80.0  # rebuilt as 20 and 40
    expected = 30.0 if norm == "l1" else math.sqrt((20**2 + 40**2) / 2)
    assert float(detector.score(image)) == pytest.approx(expected, rel=1e-5)


def test_divergence_by_hand() -> None:
    purifier = AutoencoderDenoise(network=Halving(), window=(0.0, 1.0), intensity={"a_min": 0, "a_max": 1})
    detector = ReconstructionDivergence(AttackedModel(Two(), output_values="logits"), purifier, temperature=0.5)
    image = torch.full((1, 1, 4, 4, 4), 0.8)
    p, q = ((torch.tensor([x, -x], dtype=torch.float64) / 0.5).softmax(0) for x in (0.8, 0.4))
    middle = (p + q) / 2
    expected = 0.5 * float((p * (p / middle).log() + q * (q / middle).log()).sum())
    assert float(detector.score(image)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", [ReconstructionError, ReconstructionDivergence])
def test_the_attacker_lowers_the_score(kind, tmp_path) -> None:
    model, image, label = example_case(16)
    detector = kind(model, GaussianDenoise())
    detector.calibrate((example_case(16, seed)[1] for seed in range(1, 10)), 0.1)
    unaware, adaptive = scores_of_attacks(detector, model, image, label, weight=10.0)
    assert adaptive < unaware
    detector.save(tmp_path / "magnet.npz")
    again = Detector.load(tmp_path / "magnet.npz", model, purifier=GaussianDenoise())
    assert torch.equal(again.score(image), detector.score(image))


def test_what_is_no_purifier_is_refused() -> None:
    with pytest.raises(TypeError, match="purifier"):
        ReconstructionError(Two(), Halving())
    with pytest.raises(ValueError, match="norm must be one of"):
        ReconstructionError(Two(), GaussianDenoise(), norm="l3")
