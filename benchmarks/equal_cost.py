# SPDX-License-Identifier: Apache-2.0
"""Strength at equal numbers of passes, against loops of ten lines and other libraries: the table of docs/equal_cost.md.

    python -m benchmarks.equal_cost docs/equal_cost.csv

Libraries that are not installed are left out, each with a line. Rows are written as they come, and those that the file
has already are not measured again, unless from fewer random starts than ``--starts``.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, variance

import torch

from benchmarks.torchvision_stub import stub_torchvision

stub_torchvision()  # before torchattacks looks for it

from benchmarks.csv_rows import read_rows, write_rows  # noqa: E402
from benchmarks.doc_tables import DOCS, replace_table  # noqa: E402
from benchmarks.equal_cost_attacks import CONTESTANTS, GROUPS, VOXELS, Contestant  # noqa: E402
from benchmarks.equal_cost_libraries import library_contestants  # noqa: E402
from benchmarks.steps_to_dice import Network, networks  # noqa: E402

__all__ = ["Row", "rows", "summary"]

PAGE, TABLE = "equal_cost.md", "equal_cost.csv"
PASSES = (5, 10, 20, 40)
#: Dice by which an attack may be behind the best loop before the table says so
ROOM = 2e-3


@dataclass(frozen=True)
class Row:
    """One attack with one number of passes.

    Args:
        network: name of the network.
        budget_hu: radius of voxel budgets.
        group, attack: see ``Contestant``.
        passes: forward + backward passes of one case.
        clean_dice, dice: means over the cases and the starts.
        cpu_seconds: process time of one start, all cases together.
        starts: how many random starts there were, each an attack of its own.
        dice_of_starts: the Dice after each of them, with spaces between.
    """

    network: str
    budget_hu: float
    group: str
    attack: str
    passes: int
    clean_dice: float
    dice: float
    cpu_seconds: float
    starts: int = 1
    dice_of_starts: str = ""

    @property
    def variance(self) -> float:
        """Of the mean over the starts; NaN for a single one, which says nothing about it."""
        each = [float(one) for one in self.dice_of_starts.split()]
        return variance(each) / len(each) if len(each) > 1 else math.nan


def rows(
    wanted: Iterable[Network],
    known: Iterable[Row] = (),
    passes: Sequence[int] = PASSES,
    contestants: Sequence[Contestant] = CONTESTANTS,
    starts: int = 1,
) -> Iterator[Row]:
    """Measure what is missing; the attacks with one number of passes follow each other.

    Args:
        wanted: networks.
        known: rows that are there already; those of fewer starts are measured again.
        passes: numbers of passes.
        contestants: the attacks.
        starts: random starts of each, seeds from 0.
    """
    there = {(row.network, row.group, row.attack, row.passes) for row in known if row.starts >= starts}
    for network in wanted:
        load = cache(network.load)
        for number in passes:
            for one in contestants:
                if (network.name, one.group, one.name, number) in there:
                    continue
                model, cases = load()
                begin = time.process_time()
                try:
                    found = [
                        [one.run(model, case, network.epsilon, number, seed) for case in cases]
                        for seed in range(starts)
                    ]
                except ValueError as error:  # a budget that this network cannot have; the others go on
                    print(f"{network.name}, {one.group}, {one.name}: {error}", flush=True)
                    continue
                seconds = round((time.process_time() - begin) / starts, 1)
                clean = round(mean(before for before, _ in found[0]), 4)
                each = [mean(after for _, after in start) for start in found]
                yield Row(
                    network=network.name,
                    budget_hu=network.epsilon,
                    group=one.group,
                    attack=one.name,
                    passes=number,
                    clean_dice=clean,
                    dice=round(mean(each), 4),
                    cpu_seconds=seconds,
                    starts=starts,
                    dice_of_starts=" ".join(f"{dice:.4f}" for dice in each),
                )


def summary(measured: Sequence[Row]) -> str:
    """Markdown: for each network, group and number of passes ours and the best of the others."""
    lines = [
        "| network | budget | passes | starts | ours | Dice | best of the others | its Dice | at least as strong |",
        "|---|---|---:|---:|---|---:|---|---:|---|",
    ]
    ours = {(one.group, one.name) for one in CONTESTANTS if one.ours}
    cells: dict[tuple[str, str, int], list[Row]] = {}
    for row in measured:
        cells.setdefault((row.network, row.group, row.passes), []).append(row)
    names = list(dict.fromkeys(row.network for row in measured))
    for network, group, passes in sorted(cells, key=lambda cell: (names.index(cell[0]), cell[2])):
        own = cells[network, group, passes]
        others = [row for row in own if (row.group, row.attack) not in ours]
        if not others:
            continue
        best = min(others, key=lambda row: row.dice)
        for row in own:
            if (row.group, row.attack) not in ours:
                continue
            budget = f"{row.budget_hu:g} HU" if group == VOXELS else group
            lines.append(
                f"| {network} | {budget} | {passes} | {row.starts} | {row.attack} | {_dice(row)} | {best.attack} | "
                f"{_dice(best)} | {_verdict(row, best)} |"
            )
    return "\n".join(lines)


def _dice(row: Row) -> str:
    """The mean, with its standard error where there are several starts."""
    return f"{row.dice:.3f}" if math.isnan(row.variance) else f"{row.dice:.3f} ± {math.sqrt(row.variance):.3f}"


def _verdict(ours: Row, best: Row) -> str:
    """Whether ours leaves at most as much as the best of the others, or starts differ by more than the two do."""
    behind = ours.dice - best.dice
    told_apart = 2 * math.sqrt(ours.variance + best.variance)  # NaN for single starts, which count as they are
    if behind <= ROOM:
        return "not told apart" if -behind <= told_apart else "yes"
    return "not told apart" if behind <= told_apart else "**no**"


def read(path: Path) -> list[Row]:
    """The rows of a CSV file, none where there is no file."""
    return read_rows(path, Row)


def with_table(text: str, folder: Path) -> str:
    """The page with its table made anew from the CSV file in ``folder``."""
    return replace_table(text, TABLE, summary(read(folder / TABLE)))


def main() -> int:
    """Measure what is missing, and renew the page where its CSV file was written."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equal_cost", description=__doc__)
    parser.add_argument("output", type=Path, help="CSV file; rows that it has are kept")
    parser.add_argument("--only", nargs="+", help="networks whose name contains one of these")
    parser.add_argument("--passes", type=int, nargs="+", default=PASSES, help="numbers of passes")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="attacks that have one budget")
    parser.add_argument("--attacks", nargs="+", help="attacks whose name contains one of these")
    parser.add_argument("--starts", type=int, default=1, help="random starts of each attack, whose mean counts")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    measured = read(arguments.output)
    wanted = [n for n in networks() if not arguments.only or any(part in n.name for part in arguments.only)]
    libraries, absent = library_contestants()
    print(*absent, sep="\n", flush=True)
    contestants = [
        one
        for one in (*CONTESTANTS, *libraries)
        if one.group in arguments.groups and (not arguments.attacks or any(p in one.name for p in arguments.attacks))
    ]
    for row in rows(wanted, measured, arguments.passes, contestants, arguments.starts):
        key = (row.network, row.group, row.attack, row.passes)
        measured = [one for one in measured if (one.network, one.group, one.attack, one.passes) != key] + [row]
        write_rows(arguments.output, measured, Row)
        print(row, flush=True)
    page = DOCS / PAGE
    if arguments.output.resolve() == (DOCS / TABLE).resolve() and page.is_file():
        page.write_text(with_table(page.read_text(encoding="utf-8"), DOCS), encoding="utf-8")
    print(summary(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
