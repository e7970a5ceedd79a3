# SPDX-License-Identifier: Apache-2.0
"""Measured rows in CSV files: dataclasses of text, floats and integers."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

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
    """Rows to a CSV file, which appears whole.

    Args:
        path: the file.
        rows: dataclass objects.
        kind: their dataclass.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [f.name for f in fields(kind)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    os.replace(temporary, path)
