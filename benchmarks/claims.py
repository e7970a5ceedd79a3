# SPDX-License-Identifier: Apache-2.0
"""What scripts that test claims have in common: a verdict by numbers, a JSON file that keeps what was tested, and a
page made of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from textwrap import fill
from typing import Any

from benchmarks.doc_tables import DOCS
from benchmarks.machine import MEASURED_ON, measured_on, threads
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["CONFIRMED", "REFUTED", "UNDECIDED", "outcome", "over_seeds", "run_claims", "summary", "verdict"]

WIDTH = 120
WHOLE: Any = {"break_long_words": False, "break_on_hyphens": False}
CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"


def verdict(comparisons: Sequence[bool]) -> tuple[str, str]:
    """Confirmed in every comparison, refuted in every one, undecided in between; and how many hold.

    Raises:
        ValueError: for no comparison, of which nothing follows.
    """
    if not comparisons:
        raise ValueError("comparisons must hold at least one, got none: no verdict follows.")
    held = sum(map(bool, comparisons))
    found = CONFIRMED if held == len(comparisons) else REFUTED if not held else UNDECIDED
    return found, f"{held} of {len(comparisons)} comparisons"


def outcome(
    claim: str, source: str, comparisons: Sequence[bool], seen: str, data: str, numbers: Any = None
) -> dict[str, Any]:
    """What is kept of a claim: its verdict, and the numbers of which it was made."""
    found, count = verdict(comparisons)
    return {
        "claim": claim,
        "source": source,
        "verdict": found,
        "seen": f"{count}; {seen}",
        "data": data,
        "numbers": numbers,
    }


def over_seeds(values: Iterable[float], digits: int = 2) -> str:
    """Mean, and in brackets the smallest and the largest value."""
    known = list(values)
    return f"{mean(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def summary(found: Mapping[str, dict[str, Any]], order: Iterable[str]) -> str:
    """Markdown: verdict, claim and source, what was seen and on what, for each claim that was tested, in the order.

    A list and no table: a cell of some hundred words is a column that nobody reads.
    """
    return "\n\n".join(_told(found[name]) for name in order if name in found)


def _told(one: Mapping[str, Any]) -> str:
    """One claim: a line of its verdict, and a point for each thing that was seen."""
    head = f"**{one['verdict'].capitalize()}:** {one['claim']}. Source: {one['source']}."
    points = [*one["seen"].split("; "), f"data: {one['data']}"]
    return "\n".join(
        [fill(head, WIDTH, **WHOLE), "", *(fill(f"- {x}", WIDTH, subsequent_indent="  ", **WHOLE) for x in points)]
    )


def run_claims(
    description: str | None,
    claims: Mapping[str, Callable[[], dict[str, Any]]],
    page: str,
    file: str,
    with_table: Callable[[str, Path], str],
) -> int:
    """Test the claims that the file does not have, and renew the page where its file was written.

    Args:
        description: of the script.
        claims: name -> test, which gives its verdict and what was seen.
        page: in ``docs``.
        file: in ``docs``, whose table the page has.
        with_table: the page with its table made anew.

    Returns:
        exit status.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("output", type=Path, help="JSON file; claims that it has are kept")
    parser.add_argument("--only", nargs="+", choices=tuple(claims), default=tuple(claims), help="claims to test")
    arguments = parser.parse_args()
    found = json.loads(arguments.output.read_text(encoding="utf-8")) if arguments.output.is_file() else {}
    for name in arguments.only:
        if name not in found:
            with threads(1):
                found[name] = claims[name]() | {MEASURED_ON: measured_on()}
            with replace_when_complete(arguments.output) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(f"{name}: {found[name]['verdict']}; {found[name]['seen']}", flush=True)
    if arguments.output.resolve() == (DOCS / file).resolve() and (DOCS / page).is_file():
        text = with_table((DOCS / page).read_text(encoding="utf-8"), DOCS)
        (DOCS / page).write_text(text, encoding="utf-8")
    return 0
