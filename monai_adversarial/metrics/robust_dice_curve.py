# SPDX-License-Identifier: Apache-2.0
"""Robust Dice over the budget, and its normalized area."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.metrics.budget_curve import BudgetCurve

__all__ = ["RobustDiceCurve"]


class RobustDiceCurve(BudgetCurve):
    """Mean foreground Dice (of a classifier: accuracy) of each case at rising budgets, and the area under the curve.

    ``area`` is the mean Dice over budgets from 0 to the largest one, ``relative_area`` its share of the clean Dice; 1
    means that no attack did anything. ``largest_rise`` is the most by which the measured Dice rose from one budget to
    the next: well above 0 it says that the attack at the larger budget was too weak, or that gradients are masked.

    Empty organs: a case whose Dice is NaN at a budget has no area.

    >>> import torch
    >>> from monai_adversarial.metrics import RobustDiceCurve
    >>> metric = RobustDiceCurve([2, 4])
    >>> _ = metric(torch.tensor([[0.4, 0.6]]), torch.tensor([0.8]))
    >>> metric.aggregate()["dice_at_4"], round(metric.aggregate()["area"], 6)
    (0.4000..., 0.5)

    Called with the scores (batch, budgets) and the clean ones (batch,). ``add`` takes a list of results of the same
    batch, one for each budget.

    Args:
        budgets: above 0 and rising, in the unit of the attack.
        keeps_best: the least Dice at any smaller budget counts, as a larger budget holds the smaller one. False for
            the Dice as it was measured at each.

    Raises:
        ValueError: for budgets that do not rise, and another number of scores or results.

    Source: textbook; the area and the least Dice of all smaller budgets are ours.

    Survey entry: M01 (own).
    """

    score = "dice"

    def __init__(self, budgets: Sequence[float], keeps_best: bool = True) -> None:
        super().__init__(budgets, keeps_best)

    def add(self, result: Any) -> torch.Tensor:
        """Count the cases of a batch that was attacked within each budget.

        Args:
            result: list of ``AttackResult``, one for each budget.

        Returns:
            The rows, (batch, columns).

        Raises:
            ValueError: for another number of results, and results of different batches.
        """
        results = self._results(result)
        first = results[0]
        if any(not _same(one.clean_score, first.clean_score) for one in results):
            raise ValueError("result must hold results of one batch, but their clean scores differ.")
        scores = torch.stack([one.adversarial_score.detach().double().cpu() for one in results], dim=1)
        return self(scores, first.clean_score)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.double(), other.double(), atol=1e-6, equal_nan=True)
