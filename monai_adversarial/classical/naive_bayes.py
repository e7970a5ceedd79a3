# SPDX-License-Identifier: Apache-2.0
"""Naive Bayes on features of few values, as tables of log odds."""

from __future__ import annotations

from typing import Any

import numpy as np

from monai_adversarial.utils.validation import check_positive

__all__ = ["NaiveBayes", "check_table"]


def check_table(values: Any, name: str = "samples") -> np.ndarray:
    """Whole numbers >= 0 (sample, feature), or ValueError."""
    table = np.asarray(values)
    if table.ndim != 2 or not table.size or not np.isfinite(table.astype(float)).all():
        raise ValueError(f"{name} must be a table (sample, feature) of finite numbers, got shape {table.shape}.")
    whole = table.astype(np.int64)
    if (whole != table).any() or whole.min() < 0:
        raise ValueError(
            f"{name} must hold the numbers of values, 0, 1, 2, ..., got {float(np.asarray(table).min()):g}"
            f" to {float(np.asarray(table).max()):g}."
        )
    return whole


class NaiveBayes:
    """Two classes, independent features with a few values each, Laplace smoothing.

    scikit-learn's ``CategoricalNB`` gives the same probabilities; what attack and defense need is the table of log odds
    of each value, ``log P(value | positive) / P(value | negative)``.

    >>> from monai_adversarial.classical import NaiveBayes
    >>> fitted = NaiveBayes().fit([[0, 0], [0, 1], [1, 0], [1, 1]], [0, 0, 1, 1])
    >>> fitted.predict([[1, 0]]).tolist(), [round(float(x), 3) for x in fitted.log_odds[0]]
    ([1], [-1.099, 1.099])

    Args:
        smoothing: added to each count, above 0.

    Attributes:
        prior: log odds of the classes.
        log_odds: per feature, log odds of each value.
        log_positive, log_negative: per feature, log probability of each value in each class.
    """

    def __init__(self, smoothing: float = 1.0) -> None:
        self.smoothing = check_positive("smoothing", smoothing)
        self.prior = 0.0
        self.log_odds: list[np.ndarray] = []
        self.log_positive: list[np.ndarray] = []
        self.log_negative: list[np.ndarray] = []

    def fit(self, samples: Any, labels: Any) -> NaiveBayes:
        """Count.

        Args:
            samples: (sample, feature), the number of each feature's value.
            labels: (sample,), 1 for the class that is to be found and 0 for the other.

        Raises:
            ValueError: for other values, and where a class has no sample.
        """
        table, given = check_table(samples), np.asarray(labels)
        if given.shape != (len(table),) or not np.isin(given, (0, 1)).all() or len(np.unique(given)) < 2:
            raise ValueError("labels must be 0 or 1, one for each sample, and both must occur.")
        positive = given == 1
        self.prior = float(np.log(positive.sum()) - np.log((~positive).sum()))
        self.log_odds, self.log_positive, self.log_negative = [], [], []
        for column in table.T:
            values = int(column.max()) + 1
            logs = []
            for part in (column[positive], column[~positive]):
                counts = np.bincount(part, minlength=values) + self.smoothing
                logs.append(np.log(counts / counts.sum()))
            self.log_positive.append(logs[0])
            self.log_negative.append(logs[1])
            self.log_odds.append(logs[0] - logs[1])
        return self

    @property
    def values(self) -> tuple[int, ...]:
        """Number of values of each feature."""
        return tuple(len(odds) for odds in self.log_odds)

    def decision(self, samples: Any) -> np.ndarray:
        """Log odds of the positive class, (sample,).

        Raises:
            ValueError: before ``fit``, and for a value that no sample of the training had.
        """
        table = check_table(samples)
        if table.shape[1] != len(self.log_odds) or (table.max(axis=0) >= np.array(self.values)).any():
            raise ValueError(f"samples must hold values below {self.values}, got {table.max(axis=0).tolist()}.")
        return self.prior + sum(odds[column] for odds, column in zip(self.log_odds, table.T, strict=True))

    def predict(self, samples: Any) -> np.ndarray:
        """1 where the positive class is the likelier one."""
        return (self.decision(samples) > 0).astype(np.int64)
