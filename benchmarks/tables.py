# SPDX-License-Identifier: Apache-2.0
"""A table of figures: printed as Markdown, kept as JSON, so that a page is made of exactly what a program measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Cell", "Column", "Table", "judged", "times"]

Cell = str | float | int | None


@dataclass(frozen=True)
class Column:
    """A column.

    Args:
        name: its heading.
        digits: of its numbers behind the point; None for text.
    """

    name: str
    digits: int | None = None

    def shown(self, value: Cell) -> str:
        """One cell as text: nothing for None, a number with this column's digits."""
        if value is None:
            return ""
        if isinstance(value, str) or self.digits is None:
            return str(value)
        return f"{value:.{self.digits}f}"


@dataclass
class Table:
    """Rows under columns.

    Args:
        name: by which a page refers to it, unique among all parts.
        title: what is measured on what, one line above the table.
        columns: the columns.
        rows: one cell per column each; a number, a text, or None for an empty cell.
        notes: lines below the table.

    Raises:
        ValueError: for a row that has another number of cells than there are columns.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for row in self.rows:
            self._check(row)

    def _check(self, row: Sequence[Cell]) -> None:
        if len(row) != len(self.columns):
            raise ValueError(f"a row of {self.name} must have {len(self.columns)} cells, got {len(row)}: {row}.")

    def add(self, *cells: Cell) -> None:
        """Append a row."""
        self._check(cells)
        self.rows.append(list(cells))

    def markdown(self) -> str:
        """Title, table and notes."""
        heading = " | ".join(column.name for column in self.columns)
        rule = "|".join("---" if column.digits is None else "---:" for column in self.columns)
        lines = [
            f"| {' | '.join(column.shown(cell) for column, cell in zip(self.columns, row, strict=True))} |"
            for row in self.rows
        ]
        notes = [f"\n{note}" for note in self.notes]
        return "\n".join([f"{self.title}\n", f"| {heading} |", f"|{rule}|", *lines, *notes])

    def column(self, name: str) -> list[Any]:
        """The cells below a heading.

        Raises:
            ValueError: if there is no such heading.
        """
        names = [column.name for column in self.columns]
        if name not in names:
            raise ValueError(f"{self.name} has no column {name!r}, only {names}.")
        place = names.index(name)
        return [row[place] for row in self.rows]

    def as_plain(self) -> dict[str, Any]:
        """What ``json.dump`` takes."""
        columns = [[column.name, column.digits] for column in self.columns]
        return {
            "name": self.name,
            "title": self.title,
            "columns": columns,
            "rows": [[round(cell, 6) if isinstance(cell, float) else cell for cell in row] for row in self.rows],
            "notes": self.notes,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Table:
        """The table that ``as_plain`` described."""
        columns = tuple(Column(name, digits) for name, digits in plain["columns"])
        return cls(plain["name"], plain["title"], columns, plain["rows"], plain["notes"])


def times(value: float, base: float) -> float | None:
    """How many times the base a value is; None where the base was too small to be measured, as memory of a short call
    can be."""
    return value / base if base > 0 else None


def judged(value: float | None, target: float | None) -> str:
    """``<= target`` with the verdict; nothing where there is no target, and no verdict where there is no value."""
    if target is None:
        return ""
    verdict = "not measurable" if value is None else "met" if value <= target else "MISSED"
    return f"<= {target:g}: {verdict}"
