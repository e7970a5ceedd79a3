# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown pages, between ``<!-- NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.csv_rows import read_rows, write_rows
from benchmarks.machine import MEASURED_ON, stamps
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["DOCS", "RecordedTable", "measure_missing", "renew_table", "replace_table"]

RowT = TypeVar("RowT")

DOCS = Path(__file__).resolve().parent.parent / "docs"


def replace_table(text: str, name: str, table: str) -> str:
    """The page with another table between the markers of ``name``.

    Raises:
        ValueError: unless the page has one pair of markers.
    """
    block = f"<!-- {name} -->\n{table}\n<!-- end -->"
    text, found = re.subn(rf"<!-- {re.escape(name)} -->\n.*?<!-- end -->", lambda _: block, text, flags=re.S)
    if found != 1:
        raise ValueError(f"the page must have one pair of markers for {name}, found {found}.")
    return text


def renew_table(page: Path, name: str, table: str) -> None:
    """Write the page with another table between the markers of ``name``, at once or not at all.

    Raises:
        ValueError: as :func:`replace_table`.
    """
    text = replace_table(page.read_text(encoding="utf-8"), name, table)
    with replace_when_complete(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class RecordedTable:
    """A table of a page that is made of the rows of a JSON record.

    Args:
        page: in ``docs``.
        name: of the table's markers.
        file: of the record, below ``docs``.
        table: from the rows to Markdown.
    """

    page: str
    name: str
    file: str
    table: Callable[[Sequence[dict[str, Any]]], str]

    @property
    def path(self) -> Path:
        """Where the record is that the page shows."""
        return DOCS / self.file

    def with_table(self, text: str, folder: Path) -> str:
        """The page with its table made anew from the record below ``folder``."""
        rows = json.loads((folder / self.file).read_text(encoding="utf-8"))["rows"]
        return replace_table(text, self.name, self.table(rows))

    @staticmethod
    def read(output: Path) -> list[dict[str, Any]]:
        """The rows of a record, none where there is no file."""
        return json.loads(output.read_text(encoding="utf-8"))["rows"] if output.is_file() else []

    def write(self, output: Path, rows: Sequence[dict[str, Any]], **about: Any) -> None:
        """Write a record, and renew the page where it is the page's own. Each row says where it was measured
        (``machine.stamps``), unless it names its machine itself.

        Args:
            output: file.
            rows: of the table.
            about: what is kept besides.
        """
        known = self.read(output)
        places = stamps([_bare(row) for row in rows], [(_bare(row), row.get(MEASURED_ON, "")) for row in known])
        kept = [
            row if not place or "machine" in row else {**row, MEASURED_ON: place}
            for row, place in zip(rows, places, strict=True)
        ]
        with replace_when_complete(output) as temporary:
            temporary.write_text(json.dumps({**about, "rows": kept}, indent=1) + "\n", encoding="utf-8")
        if output.resolve() == self.path.resolve():
            renew_table(DOCS / self.page, self.name, self.table(rows))


def _bare(row: dict[str, Any]) -> str:
    """A row as text, without where it was measured."""
    return json.dumps({key: value for key, value in row.items() if key != MEASURED_ON}, sort_keys=True)


def measure_missing(
    file: str,
    page: str,
    kind: type[RowT],
    cells: Sequence[tuple[Any, ...]],
    key: Callable[[RowT], tuple[Any, ...]],
    measure: Callable[..., RowT],
    table: Callable[[list[RowT]], str],
) -> None:
    """Measure the cells that a CSV file lacks, and write its rows and the table of the same name after each.

    Args:
        file: CSV file in ``docs``.
        page: in ``docs``.
        kind: dataclass of the rows.
        cells: arguments of ``measure``, in the order of the rows.
        key: the cell of a row.
        measure: from a cell's values to its row.
        table: from the rows to Markdown.
    """
    known = {key(row): row for row in read_rows(DOCS / file, kind)}
    for cell in cells:
        if cell not in known:
            known[cell] = measure(*cell)
            rows = [known[one] for one in cells if one in known]
            write_rows(DOCS / file, rows, kind)
            renew_table(DOCS / page, file, table(rows))
