# SPDX-License-Identifier: Apache-2.0
"""Writes docs/methods.md and the cards in docs/methods/ from the docstrings of the package.

    python -m benchmarks.method_cards            # write the pages
    python -m benchmarks.method_cards --check    # say what is out of date, change nothing

A public class, function or module says ``Survey entry: A06 (published), X07 (adapted).`` and ``Source: ...`` in its
docstring. Signature and defaults are those of the code, the test is the nearest file that
names the class. Experiments are functions of the scripts that test claims; their verdict is that of the record.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path

import yaml

from benchmarks.doc_tables import DOCS

__all__ = ["MARKS", "Method", "entries", "find_methods", "main", "missing", "pages", "problems"]

ROOT = DOCS.parent
PACKAGE = ROOT / "monai_adversarial"
TESTS = ROOT / "tests"
ENTRIES = Path(__file__).with_name("survey_entries.yaml")
MISSING = DOCS / "methods_missing.yaml"
SCRIPTS = tuple(ROOT / "benchmarks" / name for name in ("survey_claims.py", "survey_defense_claims.py", "experiments"))
#: by function
RECORDS = ("survey_claims.json", "survey_defense_claims.json", "survey_experiments.json")
MARKS = {
    "published": "formula and defaults as printed",
    "adapted": "published formula, in our form for 3D or segmentation",
    "reconstruction": "the formula could not be read",
    "own": "our design",
}
FAMILIES = {
    "A": ("attacks", "Attacks that the survey names"),
    "X": ("successors", "Modern successors"),
    "D": ("defenses", "Defenses"),
    "P": ("purifiers", "Purifiers"),
    "T": ("detectors", "Detectors"),
    "M": ("metrics", "Metrics and analyses"),
    "R": ("experiments", "Experiments that the survey reports"),
}
_LINE = re.compile(r"Survey entry:\s*(.*?)\.(?:\s|$)", re.DOTALL)
_PART = re.compile(r"([A-Z]\d{2}) \(([a-z]+)\)")
_SOURCE = re.compile(r"^Source:\s*(.*?)(?=\n\s*\n|\nSurvey entry:|\n\w[\w ]*:\s*\n|\Z)", re.DOTALL | re.MULTILINE)
# Where no line says ``Source:``, the first author and year in parentheses.
_CITED = re.compile(r"\(((?:after )?[A-Z][^()]*\b(?:19|20)\d\d[^()]*)\)")


@dataclass(frozen=True)
class Method:
    """A class, function or module of the package that is a method of the survey.

    Args:
        name: of the class or function, or the dotted path of a module.
        module: dotted path of where it lies.
        call: name and arguments with their defaults.
        summary: first paragraph of its docstring.
        source: paper and place, "" where none is named.
        marks: mark of each entry.
        test: nearest file that names it, "" where none does.
        verdict: of an experiment, with what was seen, "" for what is no claim.
    """

    name: str
    module: str
    call: str
    summary: str
    source: str
    marks: dict[str, str] = field(default_factory=dict)
    test: str = ""
    verdict: str = ""


@cache
def entries() -> dict[str, str]:
    """Title of each entry of the survey."""
    return yaml.safe_load(ENTRIES.read_text(encoding="utf-8"))


def missing() -> dict[str, str]:
    """Reason of each entry that the package does not have."""
    return yaml.safe_load(MISSING.read_text(encoding="utf-8")) or {}


def marks_of(docstring: str, where: str) -> dict[str, str]:
    """The entries that a docstring names.

    Raises:
        ValueError: for a line that cannot be read, an unknown entry or an unknown mark.
    """
    found: dict[str, str] = {}
    for line in _LINE.findall(docstring):
        parts = [part.strip() for part in " ".join(line.split()).split(",")]
        for part in parts:
            match = _PART.fullmatch(part)
            if match is None or match.group(1) not in entries() or match.group(2) not in MARKS:
                raise ValueError(
                    f"{where}: {part!r} in 'Survey entry: {line}.' must be an entry and one of {list(MARKS)}, "
                    "as in 'Survey entry: A06 (published), X07 (adapted).'"
                )
            found[match.group(1)] = match.group(2)
    if "Survey entry" in docstring and not found:
        raise ValueError(f"{where}: a line 'Survey entry: ...' must end with a period and name an entry.")
    return found


@cache
def verdicts() -> dict[str, str]:
    """What the records say of each claim, by the name of its function."""
    found = {}
    for file in (DOCS / name for name in RECORDS):
        for name, one in json.loads(file.read_text(encoding="utf-8")).items() if file.is_file() else ():
            found[name] = f"**{one['verdict']}**: {one['claim']}. Seen: {one['seen']}. Data: {one['data']}."
    return found


@cache
def _trees() -> dict[str, ast.Module]:
    """The parsed file of each module."""
    found = {}
    scripts = [file for one in SCRIPTS for file in ([one] if one.suffix else sorted(one.rglob("*.py")))]
    for file in [*sorted(PACKAGE.rglob("*.py")), *scripts]:
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


@cache
def _classes() -> dict[str, ast.ClassDef]:
    """Every class of the package by name."""
    return {node.name: node for tree in _trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def _named(node: ast.expr) -> str:
    """Name of a base class: ``Attack`` of ``Attack``, ``attack.Attack`` or ``Attack[Tensor]``."""
    if isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _arguments(node: ast.AST) -> str:
    """Arguments with defaults and without types: those of the function, or of the class's or its base's __init__."""
    if isinstance(node, ast.ClassDef):
        fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
        if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            shown = [
                f"{ast.unparse(i.target)}={ast.unparse(i.value)}" if i.value else ast.unparse(i.target) for i in fields
            ]
            return f"({', '.join(shown)})"
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name == "__init__":
                return _arguments(item)
        for base in node.bases:
            if _named(base) in _classes() and _classes()[_named(base)] is not node:
                return _arguments(_classes()[_named(base)])
        return "()"
    if not isinstance(node, ast.FunctionDef):
        return ""
    plain = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(plain, ast.FunctionDef)
    given = plain.args
    for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
        if argument is not None:
            argument.annotation = None
    if given.args and given.args[0].arg == "self":
        given.args.pop(0)
    return f"({ast.unparse(given)})"


def _public(tree: ast.Module, module: str) -> Iterator[tuple[str, ast.AST]]:
    """The module itself, and its public classes and functions."""
    yield module, tree
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            yield node.name, node


@cache
def _names_in_tests() -> dict[str, Counter[str]]:
    """How often each test file names what."""
    return {
        file.relative_to(ROOT).as_posix(): Counter(re.findall(r"\w+", file.read_text(encoding="utf-8")))
        for file in sorted(TESTS.rglob("test_*.py"))
        if file.parent.name != "docs"
    }


def _test_of(name: str, module: str) -> str:
    """Of the test files that name it, one nearest to the module's own place, there that of the module if there is one,
    else the one that names it most."""
    last = name.rpartition(".")[2]
    parts = module.split(".")
    rooms = parts if parts[0] == "benchmarks" else parts[1:]
    counts = {file: names[last] for file, names in _names_in_tests().items() if last in names}

    def order(file: str) -> tuple[int, bool, int, str]:
        shared = [here == there for here, there in zip(rooms, file.split("/")[1:-1], strict=False)]
        return len(list(takewhile(bool, shared))), Path(file).stem == f"test_{parts[-1]}", counts[file], file

    return max(counts, key=order, default="")


@cache
def find_methods() -> list[Method]:
    """Every method of the package that names its entry, in the order of modules and names."""
    found = []
    for module, tree in _trees().items():
        for name, node in _public(tree, module):
            docstring = inspect.cleandoc(ast.get_docstring(node) or "")  # type: ignore[arg-type]
            marks = marks_of(docstring, f"{module}.{name}")
            if marks:
                source = _SOURCE.search(docstring) or _CITED.search(docstring)
                found.append(
                    Method(
                        name=name,
                        module=module,
                        call=name + _arguments(node),
                        summary=_plain(docstring.split("\n\n")[0]),
                        source=_plain(source.group(1)) if source else "",
                        marks=marks,
                        test=_test_of(name, module),
                        verdict=verdicts().get(name, "") if module.startswith("benchmarks.") else "",
                    )
                )
    return sorted(found, key=lambda method: (method.module, method.name))


def _plain(text: str) -> str:
    """A docstring's markup as Markdown, on one line."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r"(?<=\w)-\n\s*(?=\w)", "-", text)
    return " ".join(text.replace("``", "`").split())


def _row(entry: str, methods: list[Method], absent: dict[str, str]) -> str:
    letter = entry[0]
    card = f"[{entry}](methods/{FAMILIES[letter][0]}.md#{entry.lower()})"
    if not methods:
        return f"| {card} | {entries()[entry]} | not built. {absent.get(entry, '')} | | |"
    said = {method.name: f" ({method.verdict.split('**')[1]})" for method in methods if method.verdict}
    names = ", ".join(f"`{method.name}`{said.get(method.name, '')}" for method in methods)
    marks = ", ".join(dict.fromkeys(method.marks[entry] for method in methods))
    tests = ", ".join(
        dict.fromkeys(f"[{Path(method.test).stem}](../{method.test})" for method in methods if method.test)
    )
    return f"| {card} | {entries()[entry]} | {names} | {marks} | {tests} |"


def _card(entry: str, methods: list[Method], absent: dict[str, str]) -> str:
    lines = [f"## {entry}", "", f"**{entries()[entry]}.**"]
    if not methods:
        lines += ["", f"Not built. {absent.get(entry, '')}"]
    for method in methods:
        test = f"[{method.test}](../../{method.test})" if method.test else "none"
        lines += ["", f"### `{method.name}` for {entry}" if len(method.marks) > 1 else f"### `{method.name}`", ""]
        lines += [method.summary, "", "```text", *_wrapped(method.call), "```", ""]
        lines += [f"- Mark: {method.marks[entry]} ({MARKS[method.marks[entry]]})"]
        lines += [f"- Source: {method.source}"] if method.source else []
        lines += [f"- Module: `{method.module}`", f"- Test: {test}"]
        said = f"- Verdict: {method.verdict}"
        lines += textwrap.wrap(said, 118, subsequent_indent="  ", break_on_hyphens=False) if method.verdict else []
    return "\n".join(lines)


def _wrapped(call: str, width: int = 110) -> list[str]:
    """A call in lines of at most ``width`` characters, broken behind commas."""
    lines, line = [], ""
    for part in re.split(r"(?<=, )", call):
        if line and len(line) + len(part) > width:
            lines, line = [*lines, line.rstrip()], "    "
        line += part
    return [*lines, line]


def pages() -> dict[Path, str]:
    """The text of every page, by file."""
    methods, absent = find_methods(), missing()
    by_entry = {entry: [method for method in methods if entry in method.marks] for entry in entries()}
    built = sum(bool(found) for found in by_entry.values())
    legend = "\n".join(f"- **{mark}**: {meaning}." for mark, meaning in MARKS.items())
    text = f"""# Methods

What the survey behind this project names, its modern successors, and where each is in the package. This page and the
cards are written by `python -m benchmarks.method_cards` from the docstrings; do not edit them.
{built} of {len(by_entry)} entries are built. What is not is in [methods_missing.yaml](methods_missing.yaml), with the
reason.

{legend}
"""
    head = "| entry | method | in the package | mark | test |\n|---|---|---|---|---|\n"
    result = {}
    for letter, (name, title) in FAMILIES.items():
        own = [entry for entry in entries() if entry[0] == letter]
        rows = "\n".join(_row(entry, by_entry[entry], absent) for entry in own)
        text += f"\n## {title}\n\n{head}{rows}\n"
        cards = "\n\n".join(_card(entry, by_entry[entry], absent) for entry in own)
        result[DOCS / "methods" / f"{name}.md"] = (
            f"# {title}: cards\n\nWritten by `python -m benchmarks.method_cards`; the table is in "
            f"[methods.md](../methods.md).\n\n{cards}\n"
        )
    return {DOCS / "methods.md": text, **result}


def problems() -> list[str]:
    """One sentence for each entry that is neither built nor given a reason, is both, or has no test."""
    methods, absent = find_methods(), missing()
    built = {entry for method in methods for entry in method.marks}
    found = [
        f"{entry} ({title}) is in no docstring and not in {MISSING.name}."
        for entry, title in entries().items()
        if entry not in built and entry not in absent
    ]
    found += [f"{entry} is built and still in {MISSING.name}." for entry in sorted(built & set(absent))]
    found += [f"{entry} of {MISSING.name} is no entry." for entry in sorted(set(absent) - set(entries()))]
    found += [
        f"{method.module}.{method.name} has an entry and no test that names it."
        for method in methods
        if not method.test
    ]
    found += [
        f"{method.module}.{method.name} has an entry, and neither a line 'Source: ...' nor (Author year)."
        for method in methods
        if not method.source and set(method.marks.values()) != {"own"}
    ]
    found += [
        f"{method.module}.{method.name} has an entry and no verdict in {' or '.join(RECORDS)}."
        for method in methods
        if method.module.startswith("benchmarks.") and not method.verdict
    ]
    return found


def _shrink() -> None:
    """Take what is built out of the list of what is missing; the lines of the others stay as they are."""
    built = {entry for method in find_methods() for entry in method.marks}
    lines = MISSING.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if (re.match(r"([A-Z]\d{2}):", line) or [""])[0].rstrip(":") not in built]
    MISSING.write_text("\n".join(kept) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or say what is out of date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.method_cards", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit status 1 where a page is out of date"
    )
    options = parser.parse_args(arguments)
    if not options.check:
        _shrink()
    made = pages()
    stale = [file for file, text in made.items() if not file.exists() or file.read_text(encoding="utf-8") != text]
    said = problems() + [f"{file.relative_to(ROOT)} is out of date." for file in stale if options.check]
    if not options.check:
        for file in stale:
            file.parent.mkdir(exist_ok=True)
            file.write_text(made[file], encoding="utf-8")
    print(*said, sep="\n")
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())
