# SPDX-License-Identifier: Apache-2.0
"""One Gaussian over all features, and one per layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from monai_adversarial.detection.answers import answer_of_image, predictor_of
from monai_adversarial.detection.density import FeatureDetector, estimators
from monai_adversarial.utils.plain import detached

__all__ = ["GaussianDensity", "MahalanobisDistance"]


class GaussianDensity(FeatureDetector):
    """Squared Mahalanobis distance from the clean images: up to constants the negative logarithm of a Gaussian density.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import GaussianDensity
    >>> model = example_case()[0]
    >>> detector = GaussianDensity(model).fit(example_case(16, seed)[1] for seed in range(8))
    >>> _ = detector.calibrate((example_case(16, seed)[1] for seed in range(8, 12)), false_positive_rate=0.2)
    >>> bool(detector.accept(example_case(16, 0)[1] + 200))
    False

    Args and errors are those of :class:`~monai_adversarial.detection.density.FeatureDetector`.

    Source: Li and Zhu, Robust Detection of Adversarial Attacks on Medical Images, ISBI 2020; only its abstract was
    read. They take one layer of a classifier. The covariance is shrunk by Ledoit and Wolf, and features are mean and
    standard deviation of each channel, which is ours.

    Survey entry: T01 (reconstruction).
    """

    def _estimate(self, features: torch.Tensor, groups: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        fitted = estimators("covariance").LedoitWolf(assume_centered=True).fit(features.numpy())
        return {"precision": torch.from_numpy(fitted.precision_)}

    def _distance(self, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        return ((features @ state["precision"]) * features).sum(dim=1)


class MahalanobisDistance(FeatureDetector):
    """Sum over layers of the squared distance from the nearest class mean, with one covariance for all classes.

    A segmentation has one class here: whole clean images. Those of a classifier are what it predicts.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import MahalanobisDistance
    >>> detector = MahalanobisDistance(example_case()[0]).fit(example_case(16, seed)[1] for seed in range(6))
    >>> detector.score(example_case(16, 9)[1]).shape
    torch.Size([1])

    Args and errors are those of :class:`~monai_adversarial.detection.density.FeatureDetector`.

    Source: Lee, Lee, Lee and Shin, A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial
    Attacks, NeurIPS 2018; without its input perturbation, and layers are summed with equal weights instead of weights
    learned from attacks, which a detector of unknown attacks does not have.

    Survey entry: T04 (adapted).
    """

    def _learn(self, batches: Iterator[torch.Tensor]) -> None:
        self._classes: list[torch.Tensor] = []
        super()._learn(self._with_classes(batches))

    def _with_classes(self, batches: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for batch in batches:
            plain = detached(batch)
            classes = torch.zeros(len(batch), dtype=torch.long)
            predictor_of(self.model, plain, batch)  # learns what the answers are
            if self.model.classifies:
                answer = answer_of_image(self.model, plain, batch)
                if answer.activation == "softmax":
                    classes = answer.prediction.flatten(1)[:, 0].long().cpu()
            self._classes.append(classes)
            yield batch

    def _estimate(self, features: torch.Tensor, groups: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        classes = torch.cat(self._classes)
        present, of_class = classes.unique(return_inverse=True)
        means = torch.stack([features[of_class == number].mean(dim=0) for number in range(len(present))])
        around = features - means[of_class]
        precision = features.new_zeros(features.shape[1], features.shape[1])
        for places in groups:
            fitted = estimators("covariance").LedoitWolf(assume_centered=True).fit(around[:, places].numpy())
            precision[places[:, None], places] = torch.from_numpy(fitted.precision_)
        return {"means": means, "precision": precision}

    def _distance(self, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        away = features[:, None] - state["means"]  # (batch, class, number)
        return ((away @ state["precision"]) * away).sum(dim=2).amin(dim=1)
