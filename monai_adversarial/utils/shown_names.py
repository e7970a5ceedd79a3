# SPDX-License-Identifier: Apache-2.0
"""Names that come from outside (cases, classes, attacks, files), made safe where people or programs read them."""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import Any

from monai_adversarial.utils.validation import check_choice

__all__ = ["from_cell", "printable", "shown_name"]

PLACES = ("text", "picture", "cell", "markdown")
#: what spreadsheets take for the beginning of a formula
FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: characters that do not print, move the cursor, reverse the writing direction, break lines, or stand for broken bytes
HIDDEN_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


def shown_name(name: Any, where: str = "text", longest: int | None = None) -> str:
    """A name on one line of visible characters.

    Args:
        name: anything; its ``str`` is taken.
        where: ``"text"`` for a terminal, a sentence or a text file: control characters, line breaks, marks that reverse
            the writing direction and broken bytes stand as their code (``\\x1b``), spaces in a row as one.
            ``"picture"``: as text, and ``$`` begins no formula of matplotlib. ``"cell"``: as text, and no spreadsheet
            takes it for a formula; numbers stay numbers. ``"markdown"``: as text, and it ends no cell of a table and
            begins no tag.
        longest: most characters, the middle is left out beyond; None for all.

    Raises:
        ValueError: for another place.
    """
    check_choice("where", where, PLACES)
    text = "".join(map(_visible, re.sub(r"[ \t\r\n\f\v]+", " ", str(name)))).strip()
    if longest is not None and len(text) > longest:
        half = max((longest - 3) // 2, 1)
        text = f"{text[:half]}...{text[-half:]}"
    if where == "picture":
        return text.replace("$", r"\$")
    if where == "markdown":
        return text.replace("|", r"\|").replace("<", "&lt;")
    if where == "cell" and text.startswith(FORMULA) and not _NUMBER.match(text):
        return f"'{text}"
    return text


def _visible(character: str) -> str:
    if unicodedata.category(character) in HIDDEN_CATEGORIES:
        return character.encode("unicode_escape", "backslashreplace").decode("ascii")
    return character


def from_cell(text: str) -> str:
    """The text of a cell without the mark that keeps it from being a formula."""
    return text[1:] if text[:1] == "'" and text[1:].startswith(FORMULA) else text


def printable(text: str, stream: Any = None) -> str:
    """Text of several lines that a stream can encode: other characters stand as their code, so that a terminal that
    knows ASCII alone does not end a run."""
    stream = sys.stdout if stream is None else stream
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
