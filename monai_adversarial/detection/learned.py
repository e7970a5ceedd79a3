# SPDX-License-Identifier: Apache-2.0
"""A detector that has seen attacks: a classifier of deep features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from monai_adversarial.detection.base import batches_of
from monai_adversarial.detection.density import FeatureDetector, estimators
from monai_adversarial.utils.plain import detached
from monai_adversarial.utils.scene import case_seeds
from monai_adversarial.utils.validation import check_image, check_positive

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FeatureClassifier"]


class FeatureClassifier(FeatureDetector):
    """Log odds of a logistic regression between the features of clean and of attacked images.

    It is fitted on clean and attacked cases, and so it knows the attack that it was shown and promises nothing about
    others. Show it attacks of one kind and measure it on another.

    >>> import torch
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import FeatureClassifier
    >>> model = example_case()[0]
    >>> clean = [example_case(16, seed)[1] for seed in range(8)]
    >>> noise = torch.Generator().manual_seed(0)
    >>> attacked = [one + 30 * torch.randn(one.shape, generator=noise).sign() for one in clean]
    >>> detector = FeatureClassifier(model).fit(clean[:6], attacked=attacked[:6])
    >>> bool(detector.score(attacked[7]) > detector.score(clean[7]))
    True

    Args:
        model, layers, pooling: see :class:`~monai_adversarial.detection.density.FeatureDetector`.
        regularization: inverse strength of the L2 penalty on standardized features.

    Raises:
        ValueError: as :class:`~monai_adversarial.detection.density.FeatureDetector`, and without attacked cases.

    Source: Ma et al., Understanding Adversarial Attacks on Deep Learning Based Medical Image Analysis Systems, Pattern
    Recognition 2021: deep features and a random forest of 30 trees. Logistic regression takes its place here, because
    an attacker has an exact gradient through it.

    Survey entry: T04 (adapted).
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[str] | None = None,
        regularization: float = 0.1,
        pooling: str = "image",
    ) -> None:
        super().__init__(model, layers, pooling)
        self.regularization = check_positive("regularization", regularization)
        self._attacked: list[torch.Tensor] = []

    def fit(
        self,
        images: torch.Tensor | Iterable[torch.Tensor],
        attacked: torch.Tensor | Iterable[torch.Tensor] | None = None,
    ) -> Self:
        """Learn to tell clean images from attacked ones.

        Args:
            images: clean, one batch or an iterable of them.
            attacked: adversarial images, in the same form.

        Raises:
            TypeError, ValueError: for images that are none, NaN, too few of them, or none that are attacked.
        """
        if attacked is None:
            raise ValueError("attacked must hold adversarial images, from which FeatureClassifier learns, got None.")
        self._attacked = []
        seen: list[int] = []
        for batch in batches_of(attacked):
            check_image(batch, "attacked")
            seen.extend(case_seeds(detached(batch), 0))
            self._attacked.append(batch)
        try:
            super().fit(images)
        finally:
            self._attacked = []
        self._fitted_on |= frozenset(seen)
        return self

    def _learn(self, batches: Iterator[torch.Tensor]) -> None:
        clean = self._table(batches)
        attacked = self._table(iter(self._attacked))
        state, groups = self._standard(clean)
        self._shown = self._standardized(attacked, state)
        self.state = state | self._estimate(self._standardized(clean, state), groups)
        del self._shown

    def _estimate(self, features: torch.Tensor, groups: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        table = torch.cat([features, self._shown])
        labels = torch.cat([torch.zeros(len(features)), torch.ones(len(self._shown))])
        model = estimators("linear_model").LogisticRegression(
            C=self.regularization, class_weight="balanced", max_iter=2000
        )
        fitted = model.fit(table.numpy(), labels.numpy())
        return {
            "weights": torch.from_numpy(fitted.coef_[0].copy()),
            "offset": torch.tensor(float(fitted.intercept_[0])),
        }

    def _distance(self, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        return features @ state["weights"] + state["offset"].to(features)
