# SPDX-License-Identifier: Apache-2.0
"""Models of several trainings agree on clean images."""

from __future__ import annotations

import pytest
import torch

from monai_adversarial.detection import Detector, EnsembleDisagreement
from monai_adversarial.models import AttackedModel


class Above(torch.nn.Module):
    """Class 1 where the image is above a level."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = torch.nn.Parameter(torch.tensor(level))

    def forward(self, image):
        return torch.cat([self.level - image, image - self.level], dim=1) * 10


def test_disagreement_by_hand_is_differentiable_and_saved(tmp_path) -> None:
    image = torch.linspace(0, 1, 64).view(1, 1, 4, 4, 4)
    model, others = AttackedModel(Above(0.495)), [Above(0.495), Above(0.755)]
    detector = EnsembleDisagreement(model, others)
    dice = 2 * 16 / (32 + 16)
    assert float(detector.score(image)) == pytest.approx((0 + 1 - dice) / 2, abs=1e-6)
    assert len(detector.networks) == 3
    detector.calibrate(torch.rand(9, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)), 0.1)
    moving = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(detector.excess(moving).sum(), moving)
    assert float(gradient.abs().max()) > 0
    with torch.no_grad():
        assert float(detector.excess(image - 0.05 * gradient.sign())) < float(detector.excess(image))
    detector.save(tmp_path / "ensemble.npz")
    assert Detector.load(tmp_path / "ensemble.npz", model, others=others).threshold == detector.threshold
    with pytest.raises(ValueError, match="others must hold at least one"):
        EnsembleDisagreement(model, [])
