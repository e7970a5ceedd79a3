# SPDX-License-Identifier: Apache-2.0
"""What the metrics of attacked cases have in common: a row of numbers per case, kept, gathered and averaged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from monai_adversarial.metrics.dice import mean_of_defined
from monai_adversarial.metrics.gathered_rows import GatheredRows
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_count

__all__ = ["CaseMetric", "as_column"]


def as_column(name: str, values: Any, like: torch.Tensor | None = None) -> torch.Tensor:
    """One number per case, (batch,), float64 on the CPU, or ValueError.

    Args:
        name: of the argument, for the error.
        values: (batch,) or (batch, 1), a sequence of numbers, or booleans.
        like: another column of the same cases.
    """
    if isinstance(values, (list, tuple)):
        values = torch.stack([torch.as_tensor(value).reshape(-1) for value in values]) if values else torch.empty(0)
    if values is None:
        raise ValueError(f"{name} must hold one number per case, (batch,), got None.")
    found = as_plain(torch.as_tensor(values)).detach().to("cpu", torch.float64)
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != 1 or (like is not None and found.shape != like.shape):
        expected = "(batch,)" if like is None else f"({len(like)},)"
        raise ValueError(f"{name} must hold one number per case, {expected}, got shape {tuple(found.shape)}.")
    return found


class CaseMetric(GatheredRows):
    """A metric of MONAI with one row of numbers per case; NaN stands where a number is not defined.

    A subclass names its ``columns`` and computes ``rows``. It is called with a batch, or by ``add`` with the result of
    an attack. The rows of all processes are gathered, also where a process has no case.

    >>> import torch
    >>> from monai_adversarial.metrics.case_metric import CaseMetric, as_column
    >>> class Drop(CaseMetric):
    ...     columns = ("drop",)
    ...     def rows(self, y_pred, y=None):
    ...         return (as_column("y", y) - as_column("y_pred", y_pred))[:, None]
    >>> metric = Drop()
    >>> _ = metric(torch.tensor([0.5, 0.25]), torch.tensor([1.0, 1.0]))
    >>> metric.aggregate(), metric.cases()
    ({'drop': 0.625}, {'drop': [0.5, 0.75]})

    Attributes:
        columns: names of the numbers of a case.
        rows: from a batch (``y_pred``, ``y`` and options by name) to its rows, (batch, columns).
    """

    columns: tuple[str, ...] = ()
    rows: Callable[..., torch.Tensor]

    @property
    def row_shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """One number a column."""
        return (len(self.columns),)

    def __call__(self, y_pred: Any, y: Any = None, **options: Any) -> torch.Tensor:
        """Count a batch, or the cases of a decollated one.

        Args:
            y_pred: see the class.
            y: see the class.
            options: see the class.

        Returns:
            The rows, (batch, columns).
        """
        rows = super().__call__(y_pred, y, **options)
        assert isinstance(rows, torch.Tensor)
        return rows

    def add(self, result: Any) -> torch.Tensor:
        """Count the cases of an attack's result: moved labels, voxel size and clean answer are read from it.

        Args:
            result: an ``AttackResult``.

        Returns:
            The rows, (batch, columns).
        """
        raise NotImplementedError(f"{type(self).__name__} cannot read the result of an attack: call it with values.")

    def skip(self, count: int) -> None:
        """Count cases of which nothing is known: rows of NaN, so that rows stay next to their cases.

        Args:
            count: number of cases.
        """
        self.extend(torch.full((check_count("count", count), len(self.columns)), torch.nan, dtype=torch.float64))

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
        rows = self.rows(y_pred, y, **options).detach().to("cpu", torch.float64)
        assert rows.ndim == 2 and rows.shape[1] == len(self.columns)
        return rows

    def _compute_list(self, y_pred: Any, y: Any = None, **options: Any) -> torch.Tensor:
        """A decollated batch: one case after the other, each with its own options."""
        count = len(y_pred)
        if y is not None and len(y) != count:
            raise ValueError(f"y must hold as many cases as y_pred, {count}, got {len(y)}.")
        rows = []
        for case in range(count):
            own = {name: self._option_of(case, count, value) for name, value in options.items()}
            rows.append(self._compute_tensor(_batch_of_one(y_pred[case]), _batch_of_one(y[case]) if y else None, **own))
        return torch.cat(rows)

    @staticmethod
    def _option_of(case: int, count: int, value: Any) -> Any:
        """An option of one case: lists of one tensor per case are cut, everything else holds for all."""
        per_case = isinstance(value, (list, tuple)) and len(value) == count
        return _batch_of_one(value[case]) if per_case and isinstance(value[case], torch.Tensor) else value

    def cases(self) -> dict[str, list[float]]:
        """Column -> its numbers, case by case, of all processes in the order of the ranks."""
        rows = self.get_buffer()
        return {name: rows[:, place].tolist() for place, name in enumerate(self.columns)}

    def column(self, name: str) -> torch.Tensor:
        """One column of all cases, (case,).

        Raises:
            ValueError: for no cases.
        """
        rows = self.get_buffer()
        if not len(rows):
            raise ValueError(f"{type(self).__name__} has no cases yet: call it, or add results, before aggregate.")
        return rows[:, self.columns.index(name)]

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Column -> mean over the cases where it is defined, of all processes; NaN where it is nowhere.

        Raises:
            ValueError: for no cases.
        """
        return {name: mean_of_defined(self.column(name).tolist()) for name in self.columns}


def _batch_of_one(value: Any) -> torch.Tensor:
    tensor = torch.as_tensor(value).detach()
    return tensor.reshape(1) if tensor.ndim == 0 else tensor.unsqueeze(0)
