# SPDX-License-Identifier: Apache-2.0
"""docs/methods.md and its cards are what the docstrings say, and no entry of the survey is forgotten."""

from __future__ import annotations

import re

import pytest

from benchmarks import method_cards
from benchmarks.method_cards import entries, find_methods, marks_of, missing, pages, problems

REFRESH = "run: python -m benchmarks.method_cards"


def test_the_catalog_has_every_entry() -> None:
    numbers = {"A": 29, "X": 22, "D": 16, "P": 14, "T": 12, "M": 14, "R": 22}
    assert set(entries()) == {
        f"{letter}{place:02d}" for letter, last in numbers.items() for place in range(1, last + 1)
    }


def test_every_entry_is_built_or_has_a_reason_and_a_test_and_a_source() -> None:
    assert problems() == []


def test_the_pages_are_what_the_code_gives() -> None:
    for file, text in pages().items():
        assert file.exists() and file.read_text(encoding="utf-8") == text, f"{file.name} is out of date; {REFRESH}"


def test_a_reason_is_a_sentence() -> None:
    for entry, reason in missing().items():
        assert len(reason.split()) >= 4 and reason.endswith("."), f"{entry}: {reason}"


def test_the_table_names_the_classes_and_the_cards_their_defaults() -> None:
    methods = {method.name: method for method in find_methods()}
    assert methods["PGD"].call.startswith("PGD(epsilon, units='network', norm='linf', steps=10")
    assert methods["PGD"].marks["A03"] == "adapted" and "Madry" in methods["PGD"].source
    table = pages()[method_cards.DOCS / "methods.md"]
    (row,) = re.findall(r"^\| \[A03\].*$", table, re.MULTILINE)
    assert "`PGD`" in row and "adapted" in row and ".py)" in row


@pytest.mark.parametrize(
    "line",
    ["Survey entry: A99 (published).", "Survey entry: A03 (verified).", "Survey entry: A03.", "Survey entry: A03"],
)
def test_a_line_that_cannot_be_read_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="somewhere"):
        marks_of(f"First.\n\n{line}\n", "somewhere")


def test_a_line_may_name_several_entries_and_wrap() -> None:
    text = "First.\n\nSurvey entry: A06 (published),\nX07 (adapted).\n"
    assert marks_of(text, "here") == {"A06": "published", "X07": "adapted"}


def test_an_entry_that_is_nowhere_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method_cards, "find_methods", list)
    monkeypatch.setattr(method_cards, "missing", lambda: {"A02": "It has a reason here."})
    assert any(line.startswith("A01 ") for line in method_cards.problems())
    assert not any(line.startswith("A02 ") for line in method_cards.problems())
