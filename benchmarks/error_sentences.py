# SPDX-License-Identifier: Apache-2.0
"""Every sentence that the package raises, read from its source; the documentation lists them by module."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache

from benchmarks.doc_tables import DOCS

__all__ = ["fits", "page", "sentences", "templates"]

PACKAGE = DOCS.parent / "monai_adversarial"
VARIES = "..."


def _text(node: ast.expr) -> str:
    """A string of the source with ``...`` for what is put in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return VARIES


@cache
def sentences() -> dict[str, list[tuple[str, str]]]:
    """Module -> kind and sentence of each error that it raises itself, in the order of its source."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
        raised = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise)]
        for node in sorted(raised, key=lambda one: one.lineno):
            if isinstance(node.exc, ast.Call) and node.exc.args:
                text = re.sub(r"(\.\.\.)+", VARIES, " ".join(_text(node.exc.args[-1]).split()))
                if len(text.replace(VARIES, "").split()) >= 3:
                    found[module].append((ast.unparse(node.exc.func), text))
    return dict(found)


@cache
def templates() -> list[str]:
    """Every string of the package, with ``...`` for what is put in: sentences also begin in helper functions."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                found.append(" ".join(_text(node).split()))
    return [text for text in dict.fromkeys(found) if len(text) > 20]


def fits(quoted: str, template: str) -> bool:
    """Whether a quoted sentence, with ``...`` for what varies, is one of a template.

    >>> fits("there is no plan ...: it must be ...", "there is no plan ...: it must be ... or a YAML file.")
    True
    >>> fits("there is no plane ...", "there is no plan ...: it must be ... or a YAML file.")
    False
    """
    pieces = [piece for piece in (part.strip() for part in quoted.split(VARIES)) if piece]
    place = 0
    for piece in pieces:
        at = template.find(piece, place)
        if at < 0:
            return False
        place = at + len(piece)
    return True


def page() -> str:
    """The list as a page in Markdown."""
    lines = ["---", "orphan: true", "---", "", "# All sentences", "", f"`{VARIES}` stands for what varies.", ""]
    for module, found in sentences().items():
        lines += [f"## `{module}`", ""]
        lines += [f"- **{kind}**: {_escaped(text)}" for kind, text in dict.fromkeys(found)]
        lines += [""]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#$])", r"\\\1", text)
