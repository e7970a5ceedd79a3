# SPDX-License-Identifier: Apache-2.0
"""Sentences are short, and an attacker is "it": README, docs and the docstrings of public names."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.docs.pages import ROOT, pages

MOST_WORDS = 40
#: sentences that may be longer, by their first words: there are none
ALLOWED: tuple[str, ...] = ()
#: pages that scripts write from the words of attacks, plans and docstrings
WRITTEN = ("docs/audit_examples.md", "docs/benchmarks.md", "docs/real_scan.md")
REFUSED = (
    r"\bstands a label of None\b",
    r"\bmakes nothing up\b",
    r"\bprinted empty\b",
    r"\bfigures in the issue\b",
    r"\battackers?\b[^.]{0,60}\b(he|his|him)\b",
    r"\b(he|his|him) (knows|wants|attacks|moves|learns)\b",
)


def prose(text: str) -> str:
    """A page or docstring without code, tables, headings and links' targets."""
    text = re.sub(r"^ *```.*?^ *```", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", " ", text, flags=re.DOTALL)
    text = re.sub(r"^ *(>>>|\.\.\.) .*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^(\||#).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"^ *=+ +=+.*?^ *=+ +=+[= ]*\n(?:.*?^ *=+ +=+[= ]*$)?", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"``[^`]+``|`[^`]+`", "CODE", text)
    return re.sub(r"^ *([-*]|\d+\.) ", "\n\n", text, flags=re.MULTILINE)


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text: what ends with a period, a question mark, or a paragraph, item or argument."""
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*\w+: )", prose(text)):
        flat = " ".join(paragraph.split())
        yield from re.split(r"(?<=[.?!])[)\"*]* (?=[A-Z(\"*])|(?<=[a-z)]): (?=[A-Z])|; ", flat)


def words(sentence: str) -> int:
    return len(re.findall(r"[A-Za-z][\w'-]*", sentence))


def docstrings() -> Iterator[tuple[str, str]]:
    """Place and text of each docstring of a public module, class, function and method."""
    for file in sorted((ROOT / "monai_adversarial").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        where = file.relative_to(ROOT).as_posix()
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                name = getattr(node, "name", "")
                text = ast.get_docstring(node)
                if text and (not name.startswith("_") or name == "__call__"):
                    yield f"{where}:{name}", inspect.cleandoc(text)


@cache
def texts() -> list[tuple[str, str]]:
    found = [(page, (ROOT / page).read_text(encoding="utf-8")) for page in pages()]
    return [*found, *docstrings()]


def test_no_sentence_is_long() -> None:
    long = [
        f"{where} ({words(sentence)} words): {sentence}"
        for where, text in texts()
        if where not in WRITTEN
        for sentence in sentences(text)
        if words(sentence) > MOST_WORDS and not sentence.startswith(ALLOWED or "\0")
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("refused", REFUSED)
def test_wordings_that_read_badly_are_gone(refused: str) -> None:
    found = [f"{where}: {match.group(0)}" for where, text in texts() for match in re.finditer(refused, text)]
    assert not found


def test_a_long_sentence_and_a_short_one_are_told_apart() -> None:
    long = " ".join(["word"] * (MOST_WORDS + 1)) + "."
    assert [words(sentence) for sentence in sentences(f"Short. {long.capitalize()}\n\n```python\n{long}\n```")] == [
        1,
        MOST_WORDS + 1,
        *[0] * (len(list(sentences(f"Short. {long.capitalize()}\n\n```python\n{long}\n```"))) - 2),
    ]
