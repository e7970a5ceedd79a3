# SPDX-License-Identifier: Apache-2.0
"""Measured rows in CSV files: dataclasses of text, floats and integers, and where each was measured."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.machine import MEASURED_ON, stamps

__all__ = ["read_rows", "write_rows"]

RowT = TypeVar("RowT")
KINDS = {"str": str, "float": float, "int": int}


def read_rows(path: Path, kind: type[RowT]) -> list[RowT]:
    """The rows of a CSV file, none where there is no file.

    Args:
        path: the file.
        kind: dataclass of the rows.
    """
    if not path.is_file():
        return []
    columns: Any = fields(kind)  # type: ignore[arg-type]
    with path.open(newline="", encoding="utf-8") as stream:
        return [kind(**{f.name: KINDS[str(f.type)](line[f.name]) for f in columns}) for line in csv.DictReader(stream)]


def write_rows(path: Path, rows: Iterable[Any], kind: type[Any]) -> None:
    """Rows to a CSV file, which appears whole; the last column says where a row was measured (``machine.stamps``).

    Args:
        path: the file; its folder is made where it is missing.
        rows: dataclass objects.
        kind: their dataclass.
    """
    columns = [f.name for f in fields(kind)]
    made = [asdict(row) for row in rows]
    cells = [tuple(str(row[column]) for column in columns) for row in made]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [*columns, MEASURED_ON], lineterminator="\n")
        writer.writeheader()
        for row, where in zip(made, stamps(cells, _stamped(path, columns)), strict=True):
            writer.writerow({**row, MEASURED_ON: where})
    os.replace(temporary, path)


def _stamped(path: Path, columns: list[str]) -> list[tuple[tuple[str, ...], str]]:
    """The rows of a file as text, each with where it was measured."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    return [(tuple(line.get(c) or "" for c in columns), line.get(MEASURED_ON) or "") for line in lines]
