# SPDX-License-Identifier: Apache-2.0
"""Names of others are shown so that every character can be seen, and are no formulas in tables."""

from __future__ import annotations

import math

import pytest

from monai_adversarial.audit.report.names import cell, shortened, shown


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("liver", "liver"),
        ("Größe 肝臓 كبد", "Größe 肝臓 كبد"),
        ("two\nlines\r\nand\u2028three", "two lines and three"),
        ("a\x1b[31mred", "a<U+001B>[31mred"),
        ("a\u202eb", "a<U+202E>b"),
        ("a\u200bb", "a<U+200B>b"),
        ("caf\udce9", "caf<U+DCE9>"),
        ("$x^2$", "$x^2$"),
        (None, "not defined"),
    ],
)
def test_every_character_is_seen(raw, text):
    assert shown(raw) == text
    shown(raw).encode("utf-8")


def test_a_long_name_keeps_both_ends():
    text = shortened("a" * 30 + "b" * 30, 21)
    assert len(text) == 21 and text.startswith("aaaa") and text.endswith("bbbb") and "…" in text
    assert shortened("short", 21) == "short"


@pytest.mark.parametrize("raw", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\n=1"])
def test_a_formula_is_quoted(raw):
    assert cell(raw).startswith("'")


def test_numbers_stay_numbers():
    assert [cell(v) for v in (-1.5, 3, True, False, None, math.nan, "liver")] == ["-1.5", 3, 1, 0, "", "", "liver"]
