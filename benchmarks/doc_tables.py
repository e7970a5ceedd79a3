# SPDX-License-Identifier: Apache-2.0
"""Tables in Markdown pages, between ``<!-- NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import re
from pathlib import Path

from monai_adversarial.utils.files import replace_when_complete

__all__ = ["DOCS", "renew_table", "replace_table"]

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
