# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals over patients."""

from __future__ import annotations

import math

import numpy as np
import pytest

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
