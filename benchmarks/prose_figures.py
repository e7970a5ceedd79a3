# SPDX-License-Identifier: Apache-2.0
"""Figures in the sentences of the pages, read from the CSV and JSON files that made them.

``python -m benchmarks.prose_figures`` writes them anew where they stand, ``--check`` says which are not what the files
say. Sentences and look-ups are in ``docs/figures/``, a file for each page; ``docs/extending.md`` has the form.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import mean, median
from typing import Any

import yaml

from benchmarks.doc_tables import DOCS
from benchmarks.figure_sources import LOOKUPS
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["FOLDER", "Figures", "Sentence", "bound_pages", "figures_of", "read_figures"]

FOLDER = DOCS / "figures"
SETTINGS = "settings.yml"  # of every page, and of the pages that have settings alone
SLOT = re.compile(r"\{(?::([^}]*))?\}")
NUMBER = r"[-−+]?\d[\d,]*(?:\.\d+)?"
WORDS = "no one two three four five six seven eight nine ten eleven twelve".split()
#: what counts as a result unless it is bound or a setting: decimals and percentages
RESULT = re.compile(r"(?<![\w.])\d[\d,]*\.\d+(?!\.?\d)|(?<![\w.])\d+ ?%")
#: what is no prose: code, targets of links, comments, and tables that scripts write between their markers
NO_PROSE = re.compile(
    r"^ *```.*?^ *```|<!-- [\w.\- ]+ -->\n.*?<!-- end -->|<!--.*?-->|`[^`]*`|\]\([^)]*\)", re.DOTALL | re.MULTILINE
)
NAMES = {**LOOKUPS, "mean": mean, "median": median}


@dataclass(frozen=True)
class Sentence:
    """Words of a page with places for figures.

    Args:
        text: the words; ``{}`` or ``{:.2f}`` is a place, with Python's format, and ``{:words}`` a number in words.
        values: one for each place, from the files.
    """

    text: str
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        places = len(SLOT.findall(self.text))
        if not places or places != len(self.values):
            raise ValueError(f"{self.text!r} has {places} places for {len(self.values)} figures.")

    def shown(self) -> list[str]:
        """The figures as the page must have them."""
        return [_shown(value, spec) for spec, value in zip(SLOT.findall(self.text), self.values, strict=True)]

    def find(self, page: str) -> re.Match[str]:
        """Where it stands, whatever the figures are there; groups are the figures.

        Raises:
            ValueError: unless it stands there once.
        """
        parts = SLOT.split(self.text)
        pattern = _words(parts[0])
        for spec, after in zip(parts[1::2], parts[2::2], strict=True):
            pattern += ("([A-Za-z]+)" if spec == "words" else f"({NUMBER})") + _words(after)
        found = list(re.finditer(pattern, page))
        if len(found) != 1:
            raise ValueError(f"must stand once in the page, and stands {len(found)} times: {self.text!r}")
        return found[0]


@dataclass(frozen=True)
class Figures:
    """What is said about the figures of one page.

    Args:
        page: the page, relative to the repository.
        sentences: with figures that files have.
        claims: words of the page -> whether the files say so ("within 0.02 of no purifier").
        settings: regular expressions of what is no result: budgets, versions, levels of confidence.
        asserted: words with a bound that a test asserts.
    """

    page: str
    sentences: tuple[Sentence, ...] = ()
    claims: Mapping[str, bool] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    asserted: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The page."""
        return DOCS.parent / self.page

    def renewed(self, page: str) -> str:
        """The page with every figure as the files have it."""
        for sentence in self.sentences:
            match = sentence.find(page)
            for place, shown in reversed(list(enumerate(sentence.shown(), start=1))):
                page = page[: match.start(place)] + shown + page[match.end(place) :]
        return page

    def wrong(self, page: str) -> list[str]:
        """What the files say and the page does not, for each figure that differs and each claim that does not hold."""
        found = [f"{self.page}: the files do not say {text!r}" for text, holds in self.claims.items() if not holds]
        for sentence in self.sentences:
            match = sentence.find(page)
            pairs = zip(match.groups(), sentence.shown(), strict=True)
            found += [f"{self.page}: {right}, not {said} in {match[0]!r}" for said, right in pairs if said != right]
        return found

    def loose(self, page: str) -> list[str]:
        """Result figures that are not bound, claimed or a setting, each with its line."""
        covered = [match.span(place) for match in self._found(page) for place in range(1, len(match.groups()) + 1)]
        settings = map(_spaces, (*_settings()["every page"], *self.settings))
        patterns = [*settings, *map(_words, (*self.claims, *self.asserted))]
        for pattern in patterns:
            covered += [match.span() for match in re.finditer(pattern, page)]
        return [
            f"{self.page}: {match[0]} in {page[page.rfind(chr(10), 0, match.start()) + 1 :].splitlines()[0]!r}"
            for match in result_figures(page)
            if not any(start <= match.start() < stop for start, stop in covered)
        ]

    def stale(self, page: str) -> list[str]:
        """Settings and asserted words that cover no result figure of the page, and claims that are not in it."""
        figures = [match.start() for match in result_figures(page)]
        patterns = {one: _spaces(one) for one in self.settings} | {text: _words(text) for text in self.asserted}
        unused = [
            text
            for text, pattern in patterns.items()
            if not any(one.start() <= at < one.end() for one in re.finditer(pattern, page) for at in figures)
        ]
        unused += [text for text in self.claims if not re.search(_words(text), page)]
        return [f"{self.page}: {text}" for text in unused]

    def _found(self, page: str) -> Iterator[re.Match[str]]:
        return (sentence.find(page) for sentence in self.sentences)


def result_figures(page: str) -> list[re.Match[str]]:
    """Decimals and percentages in the prose of a page and in tables that no script writes."""
    prose = NO_PROSE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), page)
    return list(RESULT.finditer(prose))


def bound_pages() -> dict[str, Path]:
    """Page -> its file in ``docs/figures``."""
    return {yaml.safe_load(path.read_text(encoding="utf-8"))["page"]: path for path in sorted(FOLDER.glob("*.yaml"))}


def figures_of(page: str) -> Figures:
    """What is said about the figures of a page."""
    if page in bound_pages():
        return read_figures(bound_pages()[page])
    return Figures(page, settings=tuple(_settings().get(page, ())))


def read_figures(path: Path) -> Figures:
    """A file of ``docs/figures/``, its expressions evaluated.

    Raises:
        ValueError: for an expression that fails or reads no file: what is typed in is not read; for a test without its
            line.
    """
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    names: dict[str, Any] = dict(NAMES)
    for name, expression in (said.get("let") or {}).items():
        names[name] = _value(expression, names, path)
    sentences = []
    for one in said.get("sentences") or []:
        expressions = one["of"] if isinstance(one["of"], list) else [one["of"]]
        sentences.append(Sentence(one["text"], tuple(_value(of, names, path) for of in expressions)))
    claims = {one["text"]: bool(_value(one["holds"], names, path)) for one in said.get("claims") or []}
    asserted = tuple(_asserted(**one) for one in said.get("asserted") or [])
    return Figures(said["page"], tuple(sentences), claims, tuple(said.get("settings") or ()), asserted)


def _asserted(text: str, test: str, line: str) -> str:
    """The text, if the test has that line.

    Raises:
        ValueError: if it has not.
    """
    if line not in (DOCS.parent / test).read_text(encoding="utf-8"):
        raise ValueError(f"{test} does not have {line!r}, which {text!r} stands for.")
    return text


def _value(expression: str, names: dict[str, Any], path: Path) -> Any:
    used = {node.id for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.Name)}
    if not used & (names.keys() - {"mean", "median"}):
        raise ValueError(f"{path.name}: {expression!r} reads no file.")
    try:
        return eval(expression, names)  # the files are ours
    except Exception as error:
        raise ValueError(f"{path.name}: {expression!r} fails with {type(error).__name__}: {error}") from error


def _shown(value: Any, spec: str) -> str:
    if spec != "words":
        return format(value, spec)
    if int(value) != value or not 0 <= value < len(WORDS):
        raise ValueError(f"a number in words is whole and at most {WORDS[-1]}, got {value}.")
    return WORDS[int(value)]


def _words(text: str) -> str:
    """A pattern of the text, wherever its lines break."""
    return re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(text))


def _spaces(pattern: str) -> str:
    """A regular expression whose spaces may be breaks of lines."""
    return re.sub(r" +", r"\\s+", pattern)


@cache
def _settings() -> dict[str, list[str]]:
    return yaml.safe_load((FOLDER / SETTINGS).read_text(encoding="utf-8"))


def main() -> None:
    """Write the pages, or say what is wrong with them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prose_figures", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a figure is wrong")
    check = parser.parse_args().check
    wrong = False
    for path in bound_pages().values():
        figures = read_figures(path)
        page = figures.path.read_text(encoding="utf-8")
        differs = figures.wrong(page)
        print(*differs, sep="\n", end="\n" if differs else "")
        wrong |= bool(differs)
        if differs and not check:
            with replace_when_complete(figures.path) as temporary:
                temporary.write_text(figures.renewed(page), encoding="utf-8")
    if wrong and check:
        sys.exit(1)


if __name__ == "__main__":
    main()
