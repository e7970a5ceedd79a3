# SPDX-License-Identifier: Apache-2.0
"""A record and the page that is made of it are written together, and a page only by its own record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import doc_tables
from benchmarks.csv_rows import read_rows
from benchmarks.doc_tables import RecordedTable, measure_missing

PAGE = "before\n<!-- {} -->\nold\n<!-- end -->\nafter\n"


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(doc_tables, "DOCS", tmp_path)
    return tmp_path


def test_a_record_renews_its_own_page_only(docs: Path) -> None:
    made = RecordedTable("page.md", "name", "record.json", lambda rows: f"{len(rows)} rows")
    (docs / "page.md").write_text(PAGE.format("name"))
    made.write(docs / "other.json", [{"a": 1}], seed=3)
    assert json.loads((docs / "other.json").read_text()) == {"seed": 3, "rows": [{"a": 1}]}
    assert "old" in (docs / "page.md").read_text()
    made.write(made.path, [{"a": 1}, {"a": 2}])
    text = (docs / "page.md").read_text()
    assert text == PAGE.format("name").replace("old", "2 rows") == made.with_table(PAGE.format("name"), docs)


@dataclass(frozen=True)
class Row:
    name: str
    number: int


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
