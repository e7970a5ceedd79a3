# SPDX-License-Identifier: Apache-2.0
"""Look-ups in the CSV and JSON files of ``docs/``: what the expressions of ``docs/figures/*.yaml`` may call.

A source is a path below ``docs/``, such as ``search.csv``. ``#`` leads into a JSON file, to a key or to the table of
that name: ``black_box.json#rows``, ``benchmarks/steps.json#steps``. Names of columns are written with underscores:
``clean_dice``, ``PGD_50`` for "PGD-50".
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.doc_tables import DOCS

__all__ = ["LOOKUPS", "cell", "column", "record", "rows"]

Row = dict[str, Any]


def record(source: str) -> Any:
    """A JSON file, or what ``#`` leads to in it.

    Raises:
        KeyError: where the file has no such key and no such table.
    """
    name, *keys = source.split("#")
    found = _read(DOCS / name)
    for key in keys:
        if isinstance(found, dict) and key not in found and "tables" in found:
            found = {table["name"]: table for table in found["tables"]}
        found = found[int(key)] if isinstance(found, list) else found[key]
    return found


def rows(source: str, **where: Any) -> list[Row]:
    """The rows of a table, those alone whose columns are as told.

    Args:
        source: a CSV file, or a list of records or a table in a JSON file.
        **where: column -> its value, or several of which it is one.

    Raises:
        KeyError: for a column that the table does not have.
    """
    found = _read(DOCS / source) if source.endswith(".csv") else record(source)
    if isinstance(found, dict) and "columns" in found:
        names = [name for name, _ in found["columns"]]
        found = [dict(zip(names, row, strict=True)) for row in found["rows"]]
    plain = [{_plain(name): value for name, value in row.items()} for row in found]
    return [row for row in plain if all(_is(row[_plain(name)], wanted) for name, wanted in where.items())]


def column(source: str, name: str, **where: Any) -> list[Any]:
    """One column of the rows that :func:`rows` finds.

    Raises:
        ValueError: where no row is left.
    """
    found = [row[_plain(name)] for row in rows(source, **where)]
    if not found:
        raise ValueError(f"{source} has no row with {where}.")
    return found


def cell(source: str, name: str, **where: Any) -> Any:
    """One column of the only row that :func:`rows` finds.

    Raises:
        ValueError: where it is not one row.
    """
    found = column(source, name, **where)
    if len(found) != 1:
        raise ValueError(f"{source} has {len(found)} rows with {where}, and must have 1.")
    return found[0]


#: what expressions may call
LOOKUPS = {function.__name__: function for function in (record, rows, column, cell)}


@cache
def _read(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    with path.open(newline="", encoding="utf-8") as stream:
        return [{name: _number(text) for name, text in line.items()} for line in csv.DictReader(stream)]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _plain(name: str) -> str:
    """A name of a column as an argument of Python has it."""
    return re.sub(r"\W+", "_", name).strip("_")


def _is(value: Any, wanted: Any) -> bool:
    several = isinstance(wanted, Collection) and not isinstance(wanted, str)
    return value in wanted if several else value == wanted
