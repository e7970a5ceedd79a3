# SPDX-License-Identifier: Apache-2.0
"""Figures are rounded without hiding anything, and what is not a number is said so."""

from __future__ import annotations

import math

import pytest

from monai_adversarial.audit.report.figures import duration, interval, number, percent, significant


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "0.5", True, [0.5]])
def test_what_is_no_number_is_not_defined(value):
    assert {number(value), significant(value), percent(value), duration(value)} == {"not defined"}
    assert interval({"mean": value, "low": 0.1, "high": 0.2}) == "not defined"


def test_numbers_have_a_minus_sign_and_no_negative_zero():
    assert [number(v, 2) for v in (0.126, -0.126, -0.001)] == ["0.13", "\u22120.13", "0.00"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0 %"), (0.001, "< 0.5 %"), (0.25, "25 %"), (0.999, "> 99.5 %"), (1.0, "100 %")]
)
def test_few_are_not_rounded_to_none_and_most_not_to_all(value, text):
    assert percent(value) == text


def test_an_interval_that_is_not_defined_is_left_out():
    assert interval({"mean": 0.5, "low": 0.4, "high": 0.6}) == "0.500 [0.400, 0.600]"
    assert interval({"mean": 0.5, "low": math.nan, "high": math.nan}) == "0.500"


def test_durations():
    assert [duration(v) for v in (4.23, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 5 min"]
