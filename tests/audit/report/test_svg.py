# SPDX-License-Identifier: Apache-2.0
"""Charts are part of their page: its colors, its font, text as text, identifiers of their own."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from monai_adversarial.audit.report.svg import AFTER, CLEAN, VARIABLES, chart


def draw(figure):
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "o-", color=CLEAN, label="a_$x^2$ <b> \u809d")
    axes.plot([0, 1], [1, 0], "o-", color=AFTER)
    axes.legend()


@pytest.fixture(scope="module")
def svg():
    return str(chart(draw, "first", 'a "chart" & <more>', (3, 2)))


def test_colors_and_font_are_those_of_the_page(svg):
    assert "var(--clean)" in svg and "var(--after)" in svg and "var(--sans)" in svg
    assert not any(color in svg for color in VARIABLES)
    assert "DejaVu" not in svg


def test_text_is_text_and_no_formula(svg):
    texts = [
        "".join(element.itertext()) for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")
    ]
    assert "a_$x^2$ <b> \u809d" in texts


def test_the_title_is_an_attribute(svg):
    assert ElementTree.fromstring(svg).get("aria-label") == 'a "chart" & <more>'


def test_identifiers_are_unique_and_their_own(svg):
    defined = re.findall(r' id="([^"]+)"', svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert len(set(defined)) == len(defined) and used == set(defined)
    assert all(name.startswith("first-") for name in defined)


def test_the_same_chart_is_the_same_text(svg):
    assert str(chart(draw, "first", 'a "chart" & <more>', (3, 2))) == svg
