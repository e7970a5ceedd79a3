# SPDX-License-Identifier: Apache-2.0
"""Text of others (names of cases, classes and rows) made safe to show: on a page, in a chart, in a cell of a table."""

from __future__ import annotations

import unicodedata
from typing import Any

__all__ = ["cell", "shortened", "shown"]

# Categories that have no picture or that change what stands beside them: control, format (direction marks, joiners),
# surrogates (undecodable bytes of a file name), private use, line and paragraph separators.
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# A spreadsheet takes a cell that begins so for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def shown(text: Any) -> str:
    """Any value as one line in which every character can be seen: others are written as their code (``<U+202E>``).

    Args:
        text: of unknown origin; None is ``"not defined"``.
    """
    if text is None:
        return "not defined"
    spaced = " ".join(part for part in str(text).replace("\t", " ").splitlines() if part)
    return "".join(f"<U+{ord(c):04X}>" if unicodedata.category(c) in UNSEEN else c for c in spaced)


def shortened(text: Any, length: int = 40) -> str:
    """``shown`` text of at most ``length`` characters, its middle left out."""
    whole = shown(text)
    if len(whole) <= length:
        return whole
    head = (length - 1) // 2
    return f"{whole[:head]}…{whole[len(whole) - (length - 1 - head) :]}"


def cell(value: Any) -> Any:
    """A value as a cell of a table: text that a spreadsheet would compute is quoted, what is not defined is empty."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return value
    raw = str(value)
    text = shown(raw)
    return f"'{text}" if raw.startswith(FORMULA) or text.lstrip().startswith(FORMULA) else text
