# SPDX-License-Identifier: Apache-2.0
"""A mixture of Gaussians over the features of clean images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.detection.density import FeatureDetector, estimators
from monai_adversarial.utils.validation import check_count

__all__ = ["GaussianMixtureDensity"]


class GaussianMixtureDensity(FeatureDetector):
    """Negative logarithm of the density of a mixture of Gaussians with diagonal covariances.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import GaussianMixtureDensity
    >>> detector = GaussianMixtureDensity(example_case()[0], most_components=2)
    >>> detector = detector.fit(example_case(16, seed)[1] for seed in range(8))
    >>> clean = example_case(16, 9)[1]
    >>> bool(detector.score(clean + 100) > detector.score(clean))
    True

    Args:
        model, layers, pooling: see :class:`~monai_adversarial.detection.density.FeatureDetector`.
        most_components: the number of Gaussians is that of 1 to this many with the best Bayesian information criterion.
        least_variance: added to variances of standardized features.

    Source: Li et al., Defending Against Adversarial Attacks on Medical Imaging AI System,
    Classification or Detection?, ISBI 2021; the paper was not read, so that this is a reconstruction from the survey.

    Survey entry: T02 (reconstruction).
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[str] | None = None,
        most_components: int = 4,
        least_variance: float = 1e-2,
        pooling: str = "image",
    ) -> None:
        super().__init__(model, layers, pooling)
        self.most_components = check_count("most_components", most_components)
        self.least_variance = float(least_variance)

    def _estimate(self, features: torch.Tensor, groups: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        table = features.numpy()
        # at least three cases for each Gaussian
        tried = [
            estimators("mixture")
            .GaussianMixture(number, covariance_type="diag", reg_covar=self.least_variance, random_state=0)
            .fit(table)
            for number in range(1, max(1, min(self.most_components, len(table) // 3)) + 1)
        ]
        best = min(tried, key=lambda one: one.bic(table))
        return {
            "means": torch.from_numpy(best.means_),
            "variances": torch.from_numpy(best.covariances_),
            "weights": torch.from_numpy(best.weights_),
        }

    def _distance(self, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        away = (features[:, None] - state["means"]).square() / state["variances"]
        logarithm = -0.5 * (away + (2 * math.pi * state["variances"]).log()).sum(dim=2)
        return -torch.logsumexp(logarithm + state["weights"].log(), dim=1)
