# SPDX-License-Identifier: Apache-2.0
"""How many adversarial examples an ordinary transform undoes."""

from __future__ import annotations

import math
from typing import Any

import torch

from monai_adversarial.metrics.case_metric import CaseMetric, as_column
from monai_adversarial.metrics.success import success
from monai_adversarial.utils.validation import check_fraction

__all__ = ["DestructionRate", "destruction_rate"]


def destruction_rate(clean: torch.Tensor, adversarial: torch.Tensor, transformed: torch.Tensor) -> float:
    """Share of the successful adversarial examples that are answered right again after a transform.

    Cases count where the clean image is right and the adversarial one wrong; 1 means that the transform undoes every
    attack, 0 that all survive. For a segmentation, right is what the caller says, for example a mean Dice of at least
    half the clean one.

    >>> import torch
    >>> from monai_adversarial.metrics import destruction_rate
    >>> clean = torch.tensor([True, True, True, False])
    >>> adversarial = torch.tensor([False, False, True, False])
    >>> transformed = torch.tensor([True, False, True, True])
    >>> destruction_rate(clean, adversarial, transformed)
    0.5

    Args:
        clean: boolean (cases,), whether the clean image is answered right.
        adversarial: boolean (cases,), whether the adversarial image is.
        transformed: boolean (cases,), whether the adversarial image is after the transform.

    Returns:
        From 0 to 1; NaN where no example was successful.

    Raises:
        TypeError: for values that are not boolean.
        ValueError: for different shapes.

    Source: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", ICLR workshop 2017; the formula
    is quoted from memory (reconstruction).

    Survey entry: M09 (reconstruction).
    """
    for name, values in (("clean", clean), ("adversarial", adversarial), ("transformed", transformed)):
        if not isinstance(values, torch.Tensor) or values.dtype != torch.bool:
            kind = values.dtype if isinstance(values, torch.Tensor) else type(values).__name__
            raise TypeError(f"{name} must be a boolean tensor, got {kind}.")
        if values.shape != clean.shape:
            raise ValueError(f"{name} must have shape {tuple(clean.shape)} as clean has, got {tuple(values.shape)}.")
    successful = clean & ~adversarial
    if not bool(successful.any()):
        return math.nan
    return float((successful & transformed).sum() / successful.sum())


class DestructionRate(CaseMetric):
    """:func:`destruction_rate` of what comes batch by batch, from all processes.

    >>> import torch
    >>> from monai_adversarial.metrics import DestructionRate
    >>> metric = DestructionRate()
    >>> transformed, adversarial = torch.tensor([0.8, 0.1]), torch.tensor([0.2, 0.1])
    >>> _ = metric(transformed, adversarial, clean=torch.tensor([0.9, 0.9]))
    >>> metric.aggregate()
    {'destruction_rate': 0.5, 'successful': 1.0, 'cases': 2.0}

    Called with the scores of the adversarial images after the transform, those before it, and ``clean``, those of the
    clean images, each (batch,): Dice, or of a classifier 1 for right and 0 for wrong.

    Args:
        threshold: an image is right where its score is at least this share of the clean one.
        acceptable: cases whose clean score is NaN or at most this do not count.

    Raises:
        ValueError: for scores that are no column.

    Source: as :func:`destruction_rate`; what is right of a segmentation is ours.

    Survey entry: M09 (reconstruction).
    """

    columns = ("clean_score", "adversarial_score", "transformed_score", "successful", "undone")

    def __init__(self, threshold: float = 0.5, acceptable: float = 0.0) -> None:
        super().__init__()
        self.threshold = check_fraction("threshold", threshold)
        self.acceptable = check_fraction("acceptable", acceptable)

    def rows(
        self, y_pred: torch.Tensor, y: torch.Tensor | None = None, clean: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See the class."""
        transformed = as_column("y_pred", y_pred)
        adversarial, first = as_column("y", y, transformed), as_column("clean", clean, transformed)
        known = (first > self.acceptable) & ~adversarial.isnan() & ~transformed.isnan()
        successful = torch.as_tensor(success(first, adversarial, self.threshold))
        undone = ~torch.as_tensor(success(first, transformed, self.threshold))
        columns = [first, adversarial, transformed, torch.where(known, successful.double(), torch.nan)]
        return torch.stack([*columns, torch.where(known & successful, undone.double(), torch.nan)], dim=1)

    def add(self, result: Any, transformed_score: torch.Tensor | None = None) -> torch.Tensor:
        """Count the cases of an attack's result.

        Args:
            result: an ``AttackResult``.
            transformed_score: of its adversarial images after the transform, (batch,), as ``adversarial_score``.
        """
        return self(transformed_score, result.adversarial_score, clean=result.clean_score)

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """``destruction_rate`` (NaN without success), the share that was ``successful`` before the transform, and the
        number of ``cases`` that count."""
        successful, undone = self.column("successful"), self.column("undone")
        known = ~successful.isnan()
        return {
            "destruction_rate": float(undone[~undone.isnan()].mean()),
            "successful": float(successful[known].mean()),
            "cases": float(known.sum()),
        }
