# SPDX-License-Identifier: Apache-2.0
"""Tables as CSV text."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from monai_adversarial.utils.shown_names import from_cell, shown_name

__all__ = ["cell", "csv_text", "read_rows", "rounded"]


def rounded(value: Any) -> Any:
    """Floats with four digits; empty for NaN and None."""
    if isinstance(value, float):
        return "" if math.isnan(value) else round(value, 4)
    return "" if value is None else value


def cell(value: Any) -> Any:
    """What a cell holds: names from outside must not be formulas."""
    return shown_name(value, "cell") if isinstance(value, str) else value


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under the names of the first one's keys."""
    stream = io.StringIO()
    if rows:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(map(cell, rows[0]))
        writer.writerows([cell(row[key]) for key in rows[0]] for row in rows)
    return stream.getvalue()


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of a CSV file, numbers as numbers."""
    with open(path, newline="", encoding="utf-8") as stream:
        return [{key: _number(text) for key, text in row.items()} for row in csv.DictReader(stream)]


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return from_cell(text)
