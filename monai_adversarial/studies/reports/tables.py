# SPDX-License-Identifier: Apache-2.0
"""Tables as CSV text."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["csv_text", "read_rows", "rounded"]


def rounded(value: Any) -> Any:
    """Floats with four digits; empty for NaN and None."""
    if isinstance(value, float):
        return "" if math.isnan(value) else round(value, 4)
    return "" if value is None else value


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under the names of the first one's keys."""
    stream = io.StringIO()
    if rows:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
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
    return text
