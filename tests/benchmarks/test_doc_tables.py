# SPDX-License-Identifier: Apache-2.0
"""A record and the page that is made of it are written together, and a page only by its own record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import attack_table, detector_table, doc_tables, equal_cost, machine
from benchmarks.csv_rows import read_rows, write_rows
from benchmarks.doc_tables import RecordedTable, measure_missing
from benchmarks.machine import MEASURED_ON, measured_on

PAGE = "before\n<!-- {} -->\nold\n<!-- end -->\nafter\n"


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(doc_tables, "DOCS", tmp_path)
    return tmp_path


def test_a_record_renews_its_own_page_only(docs: Path) -> None:
    made = RecordedTable("page.md", "name", "record.json", lambda rows: f"{len(rows)} rows")
    (docs / "page.md").write_text(PAGE.format("name"))
    made.write(docs / "other.json", [{"a": 1}], seed=3)
    assert json.loads((docs / "other.json").read_text()) == {"seed": 3, "rows": [{"a": 1, MEASURED_ON: measured_on()}]}
    assert "old" in (docs / "page.md").read_text()
    made.write(made.path, [{"a": 1}, {"a": 2}])
    text = (docs / "page.md").read_text()
    assert text == PAGE.format("name").replace("old", "2 rows") == made.with_table(PAGE.format("name"), docs)


@dataclass(frozen=True)
class Row:
    name: str
    number: int


def test_rows_say_processor_and_precision_of_their_own_measurement(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is written anew with each row: those that are there keep what they said, old ones say nothing."""
    assert "torch" in measured_on() and "default precision " in measured_on()
    places = iter(["first", "second"])
    made = RecordedTable("page.md", "name", "record.json", lambda rows: "")
    record, table = docs / "other.json", docs / "rows.csv"
    record.write_text(json.dumps({"rows": [{"a": float("nan")}]}))
    table.write_text("name,number\nold,1\n")
    rows, lines = json.loads(record.read_text())["rows"], read_rows(table, Row)
    for number, place in enumerate(places):
        monkeypatch.setattr(machine, "measured_on", lambda place=place: place)
        rows.append({"a": number})
        lines.insert(0, Row(place, number))
        made.write(record, [*rows, {"machine": "named", "a": number}])
        write_rows(table, lines, Row)
    found = json.loads(record.read_text())["rows"]
    assert [row.get(MEASURED_ON, "") for row in found] == ["", "first", "second", ""]
    assert table.read_text().splitlines() == [
        f"name,number,{MEASURED_ON}",
        "second,1,second",
        "first,0,first",
        "old,1,",
    ]
    assert read_rows(table, Row) == lines


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("attack_table.csv", attack_table.Row),
        ("equal_cost.csv", equal_cost.Row),
        ("detector_table.csv", detector_table.AttackRow),
    ],
)
def test_old_rows_are_not_said_to_be_measured_here(tmp_path: Path, file: str, kind: type) -> None:
    before = (doc_tables.DOCS / file).read_text(encoding="utf-8")
    copy = tmp_path / file
    copy.write_text(before.replace(f",{MEASURED_ON}", ",elsewhere", 1), encoding="utf-8")
    write_rows(copy, read_rows(copy, kind), kind)
    assert {line.rsplit(",", 1)[1] for line in copy.read_text(encoding="utf-8").splitlines()[1:]} == {""}


def test_only_missing_cells_are_measured_and_rows_keep_the_order_of_the_cells(docs: Path) -> None:
    (docs / "page.md").write_text(PAGE.format("rows.csv"))
    asked = []

    def measure(name: str) -> Row:
        asked.append(name)
        if name == "c":
            raise RuntimeError("interrupted")
        return Row(name, len(asked))

    def table(rows: list[Row]) -> str:
        return " ".join(row.name for row in rows)

    for cells in ([("b",)], [("a",), ("b",), ("c",)]):
        try:
            measure_missing("rows.csv", "page.md", Row, cells, lambda row: (row.name,), measure, table)
        except RuntimeError:
            assert cells[-1] == ("c",)
    assert asked == ["b", "a", "c"]
    assert read_rows(docs / "rows.csv", Row) == [Row("a", 2), Row("b", 1)]
    assert "\na b\n" in (docs / "page.md").read_text()
