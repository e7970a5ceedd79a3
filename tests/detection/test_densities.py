# SPDX-License-Identifier: Apache-2.0
"""Scores are those of the textbook on the same features; attacked and shifted images get higher ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from monai_adversarial.detection import (
    FrequencyProfile,
    GaussianDensity,
    GaussianMixtureDensity,
    KernelDensity,
    LocalIntrinsicDimensionality,
    MahalanobisDistance,
)
from monai_adversarial.models import AttackedModel

sklearn = pytest.importorskip("sklearn")
KINDS = (
    GaussianDensity,
    MahalanobisDistance,
    GaussianMixtureDensity,
    KernelDensity,
    LocalIntrinsicDimensionality,
    FrequencyProfile,
)


def standardized(detector, image):
    with torch.no_grad():
        found = detector.features(image.as_tensor(), image)[:, detector.state["kept"]]
    return ((found - detector.state["center"]) / detector.state["spread"]).numpy()


@pytest.fixture
def fitted(windowed, cases):
    return lambda kind, **options: kind(windowed, **options).fit(cases[:10])


def test_gaussian_density_is_the_mahalanobis_distance(fitted, cases) -> None:
    from sklearn.covariance import LedoitWolf

    detector = fitted(GaussianDensity)
    clean = np.concatenate([standardized(detector, case) for case in cases[:10]])
    covariance = LedoitWolf(assume_centered=True).fit(clean).covariance_
    z = standardized(detector, cases[12])[0]
    assert float(detector.score(cases[12])) == pytest.approx(float(z @ np.linalg.solve(covariance, z)), rel=1e-6)


def test_mahalanobis_distance_is_summed_over_layers(fitted, cases) -> None:
    detector = fitted(MahalanobisDistance, layers=["model.0.conv", "model.1.submodule.0.conv"])
    z = torch.from_numpy(standardized(detector, cases[12]))[0] - detector.state["means"][0]
    precision, kept = detector.state["precision"], detector.state["kept"]
    first = kept < 8  # means and deviations of four channels
    assert float(precision[first][:, ~first].abs().max()) == 0
    parts = [z[one] @ precision[one][:, one] @ z[one] for one in (first, ~first)]
    assert float(detector.score(cases[12])) == pytest.approx(float(sum(parts)), rel=1e-6)


def test_mahalanobis_distance_of_a_classifier_is_from_the_nearest_class() -> None:
    class Sign(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 2, 1, bias=False)
            with torch.no_grad():
                self.conv.weight.copy_(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1))

        def forward(self, image):
            return self.conv(image).mean(dim=(2, 3))

    draw = torch.Generator().manual_seed(0)
    side = torch.tensor([-1.0, 1.0] * 10).view(-1, 1, 1, 1)
    images = side + 0.1 * torch.randn(20, 1, 4, 4, generator=draw)
    model = AttackedModel(Sign(), task="classification")
    detector = MahalanobisDistance(model, ["conv"]).fit(images)
    assert detector.state["means"].shape[0] == 2
    between = torch.zeros(1, 1, 4, 4) + 0.1 * torch.randn(1, 1, 4, 4, generator=draw)
    assert float(detector.score(between)) > 3 * float(detector.score(images).max())
    # one Gaussian over both classes finds what lies between them ordinary
    assert float(GaussianDensity(model, ["conv"]).fit(images).score(between)) < float(detector.score(between))


def test_mixture_density_is_that_of_scikit_learn(fitted, cases) -> None:
    from sklearn.mixture import GaussianMixture

    detector = fitted(GaussianMixtureDensity, most_components=3)
    clean = np.concatenate([standardized(detector, case) for case in cases[:10]])
    number = len(detector.state["weights"])
    tried = [GaussianMixture(k, covariance_type="diag", reg_covar=1e-2, random_state=0).fit(clean) for k in (1, 2, 3)]
    assert number == 1 + int(np.argmin([one.bic(clean) for one in tried]))
    expected = -tried[number - 1].score_samples(standardized(detector, cases[12]))
    assert float(detector.score(cases[12])) == pytest.approx(float(expected[0]), rel=1e-6)


def test_kernel_density_is_that_of_scikit_learn(fitted, cases) -> None:
    from sklearn.neighbors import KernelDensity as Reference

    detector = fitted(KernelDensity, bandwidth=4.0)
    clean = np.concatenate([standardized(detector, case) for case in cases[:10]])
    reference = Reference(bandwidth=4.0 / math.sqrt(2)).fit(clean)  # exp(-d**2 / (2 b**2)) there
    constant = clean.shape[1] / 2 * math.log(2 * math.pi * 4.0**2 / 2)
    expected = -reference.score_samples(standardized(detector, cases[12])) - constant
    assert float(detector.score(cases[12])) == pytest.approx(float(expected[0]), rel=1e-6)


def test_local_intrinsic_dimensionality_by_hand(fitted, cases) -> None:
    detector = fitted(LocalIntrinsicDimensionality, neighbors=5, layers=["model.0.conv"])
    clean = np.concatenate([standardized(detector, case) for case in cases[:10]])
    distances = np.sort(np.linalg.norm(clean - standardized(detector, cases[12]), axis=1))[:5]
    expected = -1 / np.mean(np.log(distances / distances[-1]))
    assert float(detector.score(cases[12])) == pytest.approx(float(expected), rel=1e-6)


def test_local_intrinsic_dimensionality_estimates_the_dimension() -> None:
    detector = LocalIntrinsicDimensionality(torch.nn.Identity(), neighbors=100)
    draw = torch.Generator().manual_seed(0)
    found = []
    for dimension in (2, 6):
        clean = 2 * torch.rand(2000, dimension, dtype=torch.float64, generator=draw) - 1
        state = detector._estimate(clean, [torch.arange(dimension)])
        center = 0.1 * torch.randn(40, dimension, dtype=torch.float64, generator=draw)
        found.append(float(detector._distance(center, state).mean()))
    assert found[0] == pytest.approx(2, rel=0.15) and found[1] == pytest.approx(6, rel=0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_clean_image_looks_like_is_suspicious_and_has_a_gradient(kind, fitted, cases) -> None:
    detector = fitted(kind)
    detector.calibrate(cases[10:20], 0.1)
    noise = 60 * torch.randn(cases[20].shape, generator=torch.Generator().manual_seed(0)).sign()
    strange = (cases[20] + noise).as_tensor()
    assert float(detector.score(strange)) > float(detector.score(cases[20]))
    moving = strange.clone().requires_grad_()
    excess = detector.excess(moving)
    (gradient,) = torch.autograd.grad(excess.sum(), moving)
    assert float(gradient.abs().max()) > 0 and bool(gradient.isfinite().all())
    with torch.no_grad():
        step = 1.0 * gradient / gradient.abs().max()
        assert float(detector.excess(strange - step)) < float(excess)


def test_too_few_and_equal_images_are_refused(windowed, cases) -> None:
    with pytest.raises(ValueError, match="at least 4 clean cases for GaussianDensity, got 3"):
        GaussianDensity(windowed).fit(cases[:3])
    with pytest.raises(ValueError, match="all features are the same"):
        GaussianDensity(windowed).fit([cases[0]] * 5)


def test_another_network_is_noticed(fitted, cases) -> None:
    detector = fitted(GaussianDensity)
    detector.features.layers = detector.features.layers[:1]
    with pytest.raises(ValueError, match="belongs to another network"):
        detector.score(cases[0])
