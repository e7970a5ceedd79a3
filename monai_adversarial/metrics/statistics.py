# SPDX-License-Identifier: Apache-2.0
"""Means over patients with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypedDict

import numpy as np

__all__ = ["Summary", "bootstrap_interval", "summarize"]


#: patients that are drawn in one call of the generator: 16 MB, whatever the numbers of patients and of resamples
_DRAWN_AT_ONCE = 2**20


class Summary(TypedDict):
    """Mean over ``n`` patients and the ends of its bootstrap interval; NaN where they are not defined.

    >>> from monai_adversarial.metrics import Summary, summarize
    >>> found: Summary = summarize([0.9])
    >>> dict(found)
    {'n': 1, 'mean': 0.9, 'low': nan, 'high': nan}
    """

    n: int
    mean: float
    low: float
    high: float


def _defined(values: Iterable[float | None]) -> np.ndarray:
    return np.asarray([float(v) for v in values if v is not None and not math.isnan(float(v))], dtype=float)


def bootstrap_interval(
    values: Iterable[float | None], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over patients (Efron 1979).

    >>> from monai_adversarial.metrics import bootstrap_interval
    >>> low, high = bootstrap_interval([0.5, 0.6, 0.7, 0.8, None])
    >>> 0.5 <= low < 0.65 < high <= 0.8
    True
    >>> bootstrap_interval([0.5])
    (nan, nan)

    Args:
        values: one value per patient; None and NaN are left out.
        confidence: coverage of the interval.
        resamples: bootstrap samples, drawn some at a time, so that the memory does not grow with them.
        seed: of the generator; the global generators are not touched.

    Returns:
        Lower and upper end; (NaN, NaN) for fewer than two patients, whom resampling tells nothing.

    Raises:
        ValueError: for a confidence outside (0, 1) or no resamples.

    Source: Efron, "Bootstrap methods: another look at the jackknife", 1979.

    Survey entry: M14 (own).
    """
    if not 0.0 < confidence < 1.0 or resamples < 1:
        raise ValueError(
            f"confidence must lie between 0 and 1 and resamples be >= 1, got {confidence!r} and {resamples!r}."
        )
    defined = _defined(values)
    if len(defined) < 2:
        return float("nan"), float("nan")
    generator, means = np.random.default_rng(seed), np.empty(resamples)
    rows = max(1, _DRAWN_AT_ONCE // len(defined))
    for start in range(0, resamples, rows):
        part = means[start : start + rows]
        part[:] = defined[generator.integers(len(defined), size=(len(part), len(defined)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def summarize(values: Iterable[float | None], seed: int = 0) -> Summary:
    """Mean over patients with its 95 % bootstrap interval; None and NaN are left out and not counted in ``n``.

    >>> from monai_adversarial.metrics import summarize
    >>> found = summarize([0.5, 0.7, float("nan"), 0.9])
    >>> found["n"], round(found["mean"], 3), found["low"] <= found["mean"] <= found["high"]
    (3, 0.7, True)
    """
    defined = _defined(values)
    low, high = bootstrap_interval(defined.tolist(), seed=seed)
    return Summary(n=len(defined), mean=float(defined.mean()) if len(defined) else float("nan"), low=low, high=high)
