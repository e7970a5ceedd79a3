# SPDX-License-Identifier: Apache-2.0
"""The demo of an earlier commit and of today, in turn on this machine: ``python -m benchmarks.demo_time``.

Both run the configs of their own demo with their own package, one thread, on the same phantoms, each run in a process
of its own. What counts is the CPU seconds of the attacks, and the Dice that they leave. Writes
docs/benchmarks/demo.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.doc_tables import DOCS, renew_table
from benchmarks.machine import machine_line
from benchmarks.parts import Record
from benchmarks.settings import Settings
from benchmarks.tables import Column, Table, judged

#: the last commit before the attacks of the demo were made faster
BEFORE = "f23efd3"
ROOT = DOCS.parent
PAGE, TABLE = "benchmarks.md", "demo"
TARGET = 0.5
TITLES = {"pgd": "PGD, 8 HU", "bias_field": "bias field, 30 %", "elastic": "elastic, 5 mm", "all": "all three"}

Run = Mapping[str, Any]


def table(before: Sequence[Run], today: Sequence[Run]) -> Table:
    """Seconds and Dice of each attack, medians over the runs of sums over the cases.

    Args:
        before, today: what ``demo_process`` wrote of each round.
    """
    cases = len({one["case"] for one in today[0]["units"]})
    found = Table(
        TABLE,
        f"The attacks of `./rundemo.sh` on {cases} of its 3 phantoms, with the code of {BEFORE} and of today; one "
        f"thread, medians of {len(today)} interleaved rounds.",
        (
            *(Column("attack"), Column("forward + backward passes a case, before"), Column("today")),
            *(Column("CPU seconds, before", 1), Column("CPU seconds, today", 1), Column("ratio", 2)),
            *(Column("ratio of each round"), Column("Dice, before", 3), Column("Dice, today", 3), Column("target")),
        ),
    )
    for name, title in TITLES.items():
        old, new = ([_of(run, name) for run in runs] for runs in (before, today))
        rounds = [b["seconds"] / a["seconds"] for a, b in zip(old, new, strict=True)]
        seconds = [median(one["seconds"] for one in runs) for runs in (old, new)]
        dice = [runs[0]["dice"] for runs in (old, new)]
        weaker = "; Dice is higher" if dice[1] > dice[0] else ""
        found.add(
            *(title, old[0]["passes"], new[0]["passes"], *seconds, seconds[1] / seconds[0]),
            *(", ".join(f"{one:.2f}" for one in rounds), *dice, judged(seconds[1] / seconds[0], TARGET) + weaker),
        )
    whole = [median(run["command"] for run in runs) for runs in (before, today)]
    units = [median(sum(one["unit_seconds"] for one in run["units"]) for run in runs) for runs in (before, today)]
    found.notes.append(
        f"With controls, pictures and files the units took {units[0]:.1f} and {units[1]:.1f} CPU s "
        f"({units[1] / units[0]:.2f}), the whole commands with start and report {whole[0]:.1f} and {whole[1]:.1f} "
        f"CPU s ({whole[1] / whole[0]:.2f})."
    )
    return found


def _of(run: Run, attack: str) -> dict[str, Any]:
    """Sum of the seconds, mean Dice and passes of one attack, or of all."""
    units = [one for one in run["units"] if attack in ("all", one["attack"])]
    passes = {tuple(one["passes"]) for one in units}
    return {
        "seconds": sum(one["attack_seconds"] for one in units),
        "dice": mean(one["dice"] for one in units),
        "passes": ", ".join(sorted(f"{a} + {b}" for a, b in passes)) if attack != "all" else "",
    }


def _checkout(commit: str, folder: Path) -> Path:
    """The files of a commit, in a folder of their own."""
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def measure(rounds: int, cases: int, folder: Path) -> tuple[list[Run], list[Run]]:
    """What ``demo_process`` wrote of each round, before and today.

    Args:
        rounds: of both, in turn.
        cases: phantoms.
        folder: an empty one.
    """
    trees = {"before": _checkout(BEFORE, folder / "code"), "today": ROOT}
    found: dict[str, list[Run]] = {name: [] for name in trees}
    for number in range(rounds):
        for name, tree in trees.items():
            output = folder / f"{name}-{number}"
            arguments = (tree, folder / "phantoms", output, file := folder / f"{name}-{number}.json", cases)
            subprocess.run(
                [sys.executable, str(ROOT / "benchmarks" / "demo_process.py"), *map(str, arguments)],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
                check=True,
            )
            found[name].append(json.loads(file.read_text(encoding="utf-8")))
            seconds = sum(one["attack_seconds"] for one in found[name][-1]["units"])
            print(f"round {number + 1}, {name}: {seconds:.1f} CPU s of attacks", flush=True)
    return found["before"], found["today"]


def main() -> None:
    """Measure, print, write the record and renew the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo_time", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="of both, in turn (default %(default)s)")
    parser.add_argument("--output", type=Path, default=DOCS / "benchmarks", help="folder of the record")
    parser.add_argument("--cases", type=int, default=3, help="phantoms, of the demo's three (default %(default)s)")
    arguments = parser.parse_args()
    settings = Settings(rounds=arguments.rounds, threads=1, cases=arguments.cases)
    with tempfile.TemporaryDirectory() as folder:
        before, today = measure(arguments.rounds, arguments.cases, Path(folder))
    made = table(before, today)
    seconds = sum(one["command"] for one in (*before, *today))
    record = Record(TABLE, machine_line(settings), asdict(settings), seconds, [made])
    record.save(arguments.output)
    print(made.markdown())
    if arguments.output.resolve() == (DOCS / "benchmarks").resolve():
        renew_table(DOCS / PAGE, TABLE, record.shown(made))


if __name__ == "__main__":
    main()
