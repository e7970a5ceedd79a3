# SPDX-License-Identifier: Apache-2.0
"""A score at several budgets, and the area under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.metrics.case_metric import CaseMetric, as_column
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_positive

__all__ = ["BudgetCurve", "normalized_area"]


def normalized_area(budgets: Sequence[float], values: torch.Tensor) -> torch.Tensor:
    """Area under a score over the budget, divided by the largest budget: the mean score over budgets from 0.

    >>> import torch
    >>> from monai_adversarial.metrics import normalized_area
    >>> normalized_area([0, 2, 4], torch.tensor([1.0, 0.5, 0.0]))
    tensor(0.5000, dtype=torch.float64)

    Args:
        budgets: rising, in any unit, the first one 0, where the clean score is.
        values: (..., budgets).

    Returns:
        (...), float64, by the trapezoidal rule; NaN where a value is.

    Raises:
        ValueError: for budgets that do not rise from 0, and another number of values.

    Source: textbook.

    Survey entry: M01 (own).
    """
    steps = torch.tensor([float(budget) for budget in budgets], dtype=torch.float64)
    if len(steps) < 2 or float(steps[0]) != 0.0 or not bool((steps.diff() > 0).all()):
        raise ValueError(f"budgets must rise from 0 and have two values or more, got {list(budgets)}.")
    scores = as_plain(torch.as_tensor(values)).detach().to("cpu", torch.float64)
    if scores.ndim == 0 or scores.shape[-1] != len(steps):
        raise ValueError(f"values must hold one score for each of {len(steps)} budgets, got {tuple(scores.shape)}.")
    return torch.trapezoid(scores, steps, dim=-1) / steps[-1]


class BudgetCurve(CaseMetric):
    """A score of each case at rising budgets; see its subclasses.

    >>> import torch
    >>> from monai_adversarial.metrics import BudgetCurve
    >>> curve = BudgetCurve([1, 3], keeps_best=False)
    >>> _ = curve(torch.tensor([[0.5, 0.0]]), torch.tensor([1.0]))
    >>> curve.aggregate()["score_at_1"], round(curve.aggregate()["area"], 4)
    (0.5, 0.4167)

    Args:
        budgets: above 0 and rising, in the unit of the attack.
        keeps_best: the least score at any smaller budget, and without an attack, counts: an attacker with a larger
            budget may use what a smaller one found.

    Raises:
        ValueError: for budgets that do not rise from above 0.
    """

    #: what the score is called
    score = "score"

    def __init__(self, budgets: Sequence[float], keeps_best: bool) -> None:
        super().__init__()
        self.budgets = tuple(check_positive("budgets", budget) for budget in budgets)
        if not self.budgets or any(a >= b for a, b in zip(self.budgets, self.budgets[1:], strict=False)):
            raise ValueError(f"budgets must be rising and above 0, got {list(budgets)}.")
        self.keeps_best = bool(keeps_best)
        self.columns = (
            f"clean_{self.score}",
            *(f"{self.score}_at_{budget:g}" for budget in self.budgets),
            "area",
            "relative_area",
            "largest_rise",
        )

    def rows(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        scores = as_plain(torch.as_tensor(y_pred)).detach().to("cpu", torch.float64)
        if scores.ndim != 2 or scores.shape[1] != len(self.budgets):
            raise ValueError(
                f"y_pred must hold a score for each case and budget, (batch, {len(self.budgets)}), got "
                f"{tuple(scores.shape)}."
            )
        clean = as_column("y", y)
        if len(clean) != len(scores):
            raise ValueError(f"y must hold one clean score per case, ({len(scores)},), got shape {tuple(clean.shape)}.")
        measured = torch.cat([clean[:, None], scores], dim=1)
        rise = measured.diff(dim=1).amax(dim=1).clamp_min(0.0)
        if self.keeps_best:
            # cummin would carry a NaN on without saying that it is one.
            known = measured.isnan().cumsum(dim=1) == 0
            measured = torch.where(known, measured.nan_to_num().cummin(dim=1).values, torch.nan)
        area = normalized_area((0.0, *self.budgets), measured)
        relative = torch.where(clean > 0, area / clean, torch.nan)
        return torch.cat([measured, torch.stack([area, relative, rise], dim=1)], dim=1)

    def _results(self, results: Any) -> list[Any]:
        """Results at each budget."""
        if not isinstance(results, (list, tuple)) or len(results) != len(self.budgets):
            given = len(results) if isinstance(results, (list, tuple)) else type(results).__name__
            raise ValueError(
                f"result must be a list of results of the same batch, one for each budget "
                f"{', '.join(f'{budget:g}' for budget in self.budgets)}, got {given}."
            )
        return list(results)
