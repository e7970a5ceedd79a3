# SPDX-License-Identifier: Apache-2.0
"""Success of an attack at two thresholds: a share of each case's clean Dice, and of the mean over the cases."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.metrics.case_metric import CaseMetric, as_column
from monai_adversarial.metrics.dice import mean_of_defined
from monai_adversarial.metrics.success import success
from monai_adversarial.utils.validation import check_fraction

__all__ = ["SuccessRate"]


class SuccessRate(CaseMetric):
    """Share of the cases in which an untargeted attack succeeded, by two rules.

    ``success_rate``: the score falls below ``threshold`` times the clean score of the same case.
    ``success_rate_of_mean``: it falls below ``threshold`` times the mean clean score over the cases, the rule of ROG,
    by which a case that was poor before the attack counts as a success too.

    Cases whose clean score is NaN or at most ``acceptable`` do not count, in either.

    >>> import torch
    >>> from monai_adversarial.metrics import SuccessRate
    >>> metric = SuccessRate(threshold=0.5)
    >>> _ = metric(torch.tensor([0.3, 0.3]), torch.tensor([0.9, 0.5]))
    >>> metric.aggregate()["success_rate"], metric.aggregate()["success_rate_of_mean"]
    (0.5, 1.0)

    Called with the scores under attack and the clean ones, each (batch,).

    Args:
        threshold: share of the clean score, 0 to 1.
        acceptable: see above.

    Raises:
        ValueError: for scores that are no column, and for the result of a targeted attack.

    Source: the threshold on the mean is that of the code of ROG (Daza, Pérez and Arbeláez, MICCAI 2021).

    Survey entry: M01 (adapted).
    """

    columns = ("clean_score", "score", "success")

    def __init__(self, threshold: float = 0.5, acceptable: float = 0.0) -> None:
        super().__init__()
        self.threshold = check_fraction("threshold", threshold)
        self.acceptable = check_fraction("acceptable", acceptable)

    def rows(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        score = as_column("y_pred", y_pred)
        clean = as_column("y", y, score)
        found = torch.as_tensor(success(clean, score, self.threshold)).double()
        return torch.stack([clean, score, torch.where(self._counts(clean, score), found, torch.nan)], dim=1)

    def _counts(self, clean: torch.Tensor, score: torch.Tensor) -> torch.Tensor:
        return (clean > self.acceptable) & ~score.isnan()

    def add(self, result: Any) -> torch.Tensor:
        """See :meth:`CaseMetric.add`."""
        if result.iou is not None:
            raise ValueError("result must be of an untargeted attack: a targeted one succeeds by other rules.")
        return self(result.adversarial_score, result.clean_score)

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Both rates, and the mean scores of the cases that count."""
        clean, score = self.column("clean_score"), self.column("score")
        counts = self._counts(clean, score)
        clean, score = clean[counts], score[counts]
        below = (score < self.threshold * clean.mean()).double()
        return {
            "success_rate": mean_of_defined(self.column("success").tolist()),
            "success_rate_of_mean": mean_of_defined(below.tolist()),
            "clean_score": mean_of_defined(clean.tolist()),
            "score": mean_of_defined(score.tolist()),
        }
