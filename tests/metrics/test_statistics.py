# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals over patients."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import scipy.stats

from monai_adversarial.metrics import bootstrap_interval, summarize


def test_the_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 400)
    low, high = bootstrap_interval(values, resamples=4000)
    half_width = 1.96 * values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_the_interval_is_reproducible_and_does_not_touch_the_global_generator() -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = bootstrap_interval([0.1, 0.5, 0.9], seed=3)
    assert first == bootstrap_interval([0.1, 0.5, 0.9], seed=3) != bootstrap_interval([0.1, 0.5, 0.7], seed=3)
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_the_interval_is_that_of_scipy_however_many_are_drawn_at_once(monkeypatch) -> None:
    values = np.random.default_rng(1).beta(8, 2, 30)
    found = bootstrap_interval(values, seed=5)
    monkeypatch.setattr("monai_adversarial.metrics.statistics._DRAWN_AT_ONCE", 100)
    assert bootstrap_interval(values, seed=5) == found
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", random_state=np.random.default_rng(9)
    ).confidence_interval
    width = found[1] - found[0]
    assert found == pytest.approx((expected.low, expected.high), abs=0.05 * width)


def test_memory_does_not_grow_with_the_patients() -> None:
    values = np.linspace(0, 1, 2000)
    tracemalloc.start()
    bootstrap_interval(values, resamples=3000)  # 48 MB of indices if drawn in one go
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_undefined_values_are_left_out_and_counted_out() -> None:
    found = summarize([0.2, None, float("nan"), 0.4])
    assert found["n"] == 2 and found["mean"] == pytest.approx(0.3)
    assert 0.2 <= found["low"] <= found["high"] <= 0.4


def test_one_patient_has_no_interval_and_none_has_no_mean() -> None:
    one, none = summarize([0.7]), summarize([])
    assert one["mean"] == 0.7 and math.isnan(one["low"]) and math.isnan(one["high"])
    assert none["n"] == 0 and math.isnan(none["mean"])


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0, 2.0], confidence=1.0)
