# SPDX-License-Identifier: Apache-2.0
"""The blocks of Markdown pages: what they are, what stands before them, and what is said below them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "blocks_of", "pages"]

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\s*\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Args:
        language: the word behind the fence.
        code: its lines.
        said: the ``text`` block that follows at once, which is what the block prints or refuses; None without one.
        reason: why it is not run, from a comment ``not run: reason`` before it; None if it is.
    """

    language: str
    code: str
    said: str | None
    reason: str | None


def pages() -> list[str]:
    """Every page of the project that a user reads, relative to its root."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("bundles/*/docs/README.md"))]
    return [page.relative_to(ROOT).as_posix() for page in found if not {"_build", "generated"} & set(page.parts)]


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found, matches = [], list(FENCE.finditer(text))
    for place, match in enumerate(matches):
        indent, language, code = match.groups()
        if indent:
            code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        behind = matches[place + 1] if place + 1 < len(matches) else None
        follows = behind is not None and behind.group(2) == "text" and not text[match.end() : behind.start()].strip()
        reason = NOT_RUN.search(text[: match.start()])
        found.append(
            Block(language, code, behind.group(3) if behind and follows else None, reason.group(1) if reason else None)
        )
    return found
