# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/benchmarks.md are the files beside it."""

from __future__ import annotations

import re

from benchmarks.benchmark_docs import FIGURE, FOLDER, PAGE, plot, with_tables
from benchmarks.doc_tables import DOCS
from benchmarks.parts import PARTS, read_records

TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
RECORDS = read_records(DOCS / FOLDER)
SCRIPTS = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS.parent / "benchmarks").glob("*.py"))


def test_the_tables_are_made_of_the_files() -> None:
    assert with_tables(TEXT, DOCS / FOLDER) == TEXT
    assert (DOCS / "images" / FIGURE).is_file()


def test_every_table_is_on_the_page_and_what_was_not_measured_says_so() -> None:
    # Figures of other pages lie here, too: a script that is no part names its file.
    others = {path.stem for path in (DOCS / FOLDER).iterdir() if f"{path.stem}.json" in SCRIPTS}
    parts = {part.name for part in PARTS}
    files = {path.stem for path in (DOCS / FOLDER).iterdir()} - (others - parts)
    assert files == set(RECORDS) <= parts
    measured = {table.name for record in RECORDS.values() for table in record.tables}
    blocks = dict(re.findall(r"<!-- (?!end)(\w+) -->\n(.*?)\n?<!-- end -->", TEXT, flags=re.S))
    assert measured < set(blocks)
    for name in set(blocks) - measured - (others - parts):
        assert blocks[name] in ("Not measured yet.", "No GPU was measured."), name
    assert blocks["gpu"] == "No GPU was measured."


def test_the_page_says_what_was_not_measured() -> None:
    assert "**No GPU was measured.**" in TEXT
    assert all("device cpu" in record.machine for record in RECORDS.values())


def test_the_plot_is_drawn_of_the_files_and_of_none(tmp_path) -> None:
    for records in (RECORDS, {}):
        plot(records, tmp_path / "plot.png")
        assert (tmp_path / "plot.png").stat().st_size > 10_000
