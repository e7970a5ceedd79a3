# SPDX-License-Identifier: Apache-2.0
"""Decoder features are pooled over the organs that the network finds, window by window."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import example_case
from monai_adversarial.detection import (
    Detector,
    Evading,
    GaussianDensity,
    GaussianMixtureDensity,
    KernelDensity,
    LocalIntrinsicDimensionality,
    MahalanobisDistance,
    OrganFeatures,
)
from monai_adversarial.models import AttackedModel
from tests.detection.conftest import tiny_network


class Halves(torch.nn.Module):
    """Features that are the image; class 1 where it is above 1, class 2 where it is above 10, which is nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Identity()

    def forward(self, image):
        seen = self.inner(image)
        return torch.cat([1 - seen, seen - 1, seen - 1e4], dim=1)


def test_mean_and_deviation_of_each_organ_by_hand() -> None:
    image = torch.rand(1, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0)) * 2
    found = OrganFeatures(AttackedModel(Halves()), ["inner"])(image, image)[0]
    values = image.flatten().double()
    inside = values[values > 1]
    whole, square = values.mean(), values.square().mean()
    mean = (inside.sum() + whole) / (len(inside) + 1)
    deviation = ((inside.square().sum() + square) / (len(inside) + 1) - mean.square()).sqrt()
    expected = torch.stack([mean, whole, deviation, values.std(correction=0)])
    assert torch.allclose(found, expected, atol=1e-6)


def test_decoder_is_looked_at_and_windows_are_pooled_with_an_exact_gradient() -> None:
    network = tiny_network().double()
    image = torch.rand(2, 1, 16, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    features = OrganFeatures(AttackedModel(network, SlidingWindowInferer((16, 16, 16), 3, 0.5)))
    moving = image.clone().requires_grad_()
    found = features(moving, image, smooth=True)
    assert features.layers[0].startswith("model.1.submodule.2")  # the way up before the answer
    weights = torch.randn(found.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((found * weights).sum(), moving)
    direction = torch.randn(image.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    step = 1e-6
    with torch.no_grad():
        ahead, behind = (
            float((features(image + sign * step * direction, image, smooth=True) * weights).sum()) for sign in (1, -1)
        )
    assert float((gradient * direction).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=1e-4)


@pytest.mark.parametrize(
    "kind",
    [GaussianDensity, GaussianMixtureDensity, KernelDensity, LocalIntrinsicDimensionality, MahalanobisDistance],
)
def test_every_density_works_on_organs(kind, windowed, cases, tmp_path) -> None:
    pytest.importorskip("sklearn")
    detector = kind(windowed, pooling="organs").fit(cases[:6])
    detector.calibrate(cases[6:10], 0.2)
    strange = (cases[20] + 300 * torch.rand(cases[20].shape, generator=torch.Generator().manual_seed(0))).clone()
    if kind is not LocalIntrinsicDimensionality:  # of an untrained network it says nothing of a strange image
        assert float(detector.score(strange)) > float(detector.score(cases[20]))
    moving = strange.as_tensor().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(detector.excess(moving).sum(), moving)
    assert float(gradient.abs().max()) > 0 and bool(gradient.isfinite().all())
    detector.save(tmp_path / "organs.npz")
    again = Detector.load(tmp_path / "organs.npz", windowed)
    assert torch.equal(again.score(strange), detector.score(strange))


def test_the_attacker_lowers_the_score_of_organs() -> None:
    pytest.importorskip("sklearn")
    model, image, label = example_case(16)
    detector = GaussianDensity(model, pooling="organs").fit(example_case(16, seed)[1] for seed in range(1, 13))
    detector.calibrate((example_case(16, seed)[1] for seed in range(13, 23)), 0.1)
    unaware = PGD(8, units="HU", steps=5)(model, image, label)
    aware = PGD(8, units="HU", steps=5, objective=Evading("dice_ce", detector, weight=3.0))
    found = aware(model, image, label, start=unaware.parameters)
    assert float(detector.score(found.adversarial)) < float(detector.score(unaware.adversarial))


def test_a_classifier_has_no_organs() -> None:
    model = AttackedModel(
        torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten())
    )
    with pytest.raises(ValueError, match="pooling must be 'image' for a classifier"):
        OrganFeatures(model, ["0"])(torch.rand(1, 1, 6, 6, 6), torch.rand(1, 1, 6, 6, 6))
    with pytest.raises(ValueError, match="pooling must be one of"):
        GaussianDensity(model, pooling="lesions")
