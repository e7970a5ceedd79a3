# SPDX-License-Identifier: Apache-2.0
"""Tables of figures: what is printed, and that nothing is lost in their files."""

from __future__ import annotations

import json

import pytest

from benchmarks.parts import Record
from benchmarks.tables import Column, Table, judged, times


def _table() -> Table:
    columns = (Column("what"), Column("ratio", 2), Column("target"))
    return Table("steps", "A title.", columns, [["ours", 0.314159, "<= 1: met"], ["absent", None, ""]], ["A note."])


def test_numbers_have_the_digits_of_their_column_and_none_is_an_empty_cell() -> None:
    assert _table().markdown().splitlines() == [
        "A title.",
        "",
        "| what | ratio | target |",
        "|---|---:|---|",
        "| ours | 0.31 | <= 1: met |",
        "| absent |  |  |",
        "",
        "A note.",
    ]


def test_a_row_must_have_a_cell_per_column() -> None:
    with pytest.raises(ValueError, match="must have 3 cells, got 2"):
        _table().add("ours", 1.0)
    with pytest.raises(ValueError, match="must have 1 cells"):
        Table("steps", "", (Column("what"),), [["ours", 1.0]])


def test_a_table_is_the_same_after_json() -> None:
    table = _table()
    again = Table.from_plain(json.loads(json.dumps(table.as_plain())))
    assert again.markdown() == table.markdown() and again.name == "steps"
    assert again.column("ratio") == [pytest.approx(0.314159), None]


def test_an_unknown_heading_is_named() -> None:
    with pytest.raises(ValueError, match="no column 'wall'"):
        _table().column("wall")


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        *((0.4, 0.45, "<= 0.45: met"), (0.45, 0.45, "<= 0.45: met"), (0.46, 0.45, "<= 0.45: MISSED"), (9.0, None, "")),
        (None, 0.45, "<= 0.45: not measurable"),
    ],
)
def test_a_target_is_judged(value: float | None, target: float | None, verdict: str) -> None:
    assert judged(value, target) == verdict


def test_nothing_is_so_many_times_what_was_too_small_to_be_measured() -> None:
    assert times(3.0, 1.5) == 2.0 and times(0.0, 1.5) == 0.0
    assert times(3.0, 0.0) is None and times(3.0, -0.1) is None


def test_a_record_is_the_same_after_its_file(tmp_path) -> None:
    record = Record("steps", "a machine", {"rounds": 5, "passes": [5, 10]}, 12.3, [_table()])
    record.save(tmp_path)
    again = Record.read(tmp_path / "steps.json")
    assert again.machine == "a machine" and again.settings == record.settings and again.seconds == 12.3
    assert [one.markdown() for one in again.tables] == [_table().markdown()]
