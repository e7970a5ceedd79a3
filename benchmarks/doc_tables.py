# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown pages, between ``<!-- NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["DOCS", "replace_table"]

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
