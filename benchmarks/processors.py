# SPDX-License-Identifier: Apache-2.0
"""How far ahead or behind other libraries on each processor: ``python -m benchmarks.processors --peers FILE``.

The step comes from what ``python -m benchmarks --only peers --save FOLDER`` has written on this processor. The cost of
an equal Dice is measured here: each attack takes the passes that it needed in the stored table "to an equal Dice", and
more where they do not get there. The rows of other processors stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.torchvision_stub import stub_torchvision

stub_torchvision()  # before MONAI looks for it

from benchmarks.doc_tables import DOCS, RecordedTable  # noqa: E402
from benchmarks.machine import machine_line, threads  # noqa: E402
from benchmarks.parts import Record  # noqa: E402
from benchmarks.peer_strength import (  # noqa: E402
    OURS_DEFAULT,
    REFERENCE,
    REFERENCE_PASSES,
    contestants,
)
from benchmarks.settings import Settings  # noqa: E402
from benchmarks.strength import bundle_network, phantom_cases  # noqa: E402
from benchmarks.tables import Table  # noqa: E402
from benchmarks.timing import Stopwatch, quartiles  # noqa: E402

PAGE, TABLE, FILE = "benchmarks.md", "processors", "benchmarks/processors.json"
MOST_PASSES = 40
STEPS = {"ours": "ours, PGD default", "torchattacks": "torchattacks PGD", "adv_lib": "adv_lib PGD"}
#: the attack whose Dice is reached, and what reaches it
ATTACKS = (OURS_DEFAULT, REFERENCE, "torchattacks APGD, Dice + cross-entropy", "adv_lib APGD, Dice + cross-entropy")


def stored_row(folder: Path) -> dict[str, Any]:
    """The row of the processor on which the tables of the page were measured.

    Args:
        folder: of ``peers.json`` and ``peer_strength.json``.
    """
    peers, strength = (Record.read(folder / f"{name}.json") for name in ("peers", "peer_strength"))
    equal = next(one for one in strength.tables if one.name == "equal_strength")
    names = [column.name for column in equal.columns]
    found = {str(row[0]): dict(zip(names, row, strict=True)) for row in equal.rows}
    reached = {
        name: {key: found[name][column] for key, column in (("passes", "passes"), ("dice", "its Dice"))}
        | {"cpu": found[name]["CPU seconds"], "quartiles": found[name]["quartiles"]}
        for name in ATTACKS
    }
    return {"machine": peers.machine, "steps": steps(peers.tables), "reached": reached}


def steps(tables: Sequence[Table]) -> dict[str, float]:
    """CPU ratios of a step to the floor, of the table of the peers."""
    table = next(one for one in tables if one.name == "peers")
    ratios = dict(zip(table.column("attack"), table.column("step, CPU ratio"), strict=True))
    return {name: ratios[attack] for name, attack in STEPS.items()}


def reached(passes: Mapping[str, int], rounds: int) -> dict[str, Any]:
    """Passes, Dice and CPU seconds of each attack to the reference's Dice on one phantom.

    Args:
        passes: where to begin.
        rounds: interleaved.
    """
    network, cases = bundle_network("cpu").requires_grad_(False), phantom_cases(1, "cpu")
    made = {one.name: one for one in contestants(network)[0]}
    goal = made[REFERENCE].measure(network, cases, REFERENCE_PASSES)
    needed = {}
    for name in ATTACKS:
        made[name].run(cases[0], 1)  # what is loaded once
        tried = range(passes[name], MOST_PASSES + 1)
        needed[name] = next(count for count in tried if made[name].measure(network, cases, count) <= goal)
    seconds: dict[str, list[float]] = {name: [] for name in ATTACKS}
    for _ in range(rounds):
        for name in ATTACKS:
            watch = Stopwatch()
            made[name].run(cases[0], needed[name])
            seconds[name].append(watch.seconds()[1])
    return {
        name: {
            "passes": needed[name],
            "dice": round(made[name].dice[needed[name]], 6),
            "cpu": round(median(seconds[name]), 4),
            "quartiles": quartiles(seconds[name]),
        }
        for name in ATTACKS
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one line for each processor."""
    lines = [
        "| processor, default precision | step / floor: ours, torchattacks, adv_lib | ours: passes, CPU s "
        "| torchattacks' PGD, times ours | its best, times ours | adv_lib's best, times ours |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        ours = row["reached"][OURS_DEFAULT]
        times = [row["reached"][name]["cpu"] / ours["cpu"] for name in ATTACKS[1:]]
        ratios = ", ".join(f"{row['steps'][name]:.2f}" for name in STEPS)
        cells = " | ".join(f"{one:.2f}{' (faster than ours)' if one < 1 else ''}" for one in times)
        lines.append(f"| {named(row['machine'])} | {ratios} | {ours['passes']}, {ours['cpu']:.2f} | {cells} |")
    return "\n".join(lines)


def named(machine: str) -> str:
    """Processor and precision of a machine's line."""
    precision = machine.split("default precision ")[1].split(";")[0]
    return f"{machine.split(' (')[0]}, {precision}"


RECORDED = RecordedTable(PAGE, TABLE, FILE, table)
with_table = RECORDED.with_table


def main() -> None:
    """Measure this processor's row, and write the record and the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processors", description=__doc__)
    parser.add_argument("--peers", type=Path, help="peers.json of this processor; without, only the stored row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RECORDED.path)
    arguments = parser.parse_args()
    first = stored_row(DOCS / "benchmarks")
    rows = json.loads(RECORDED.path.read_text(encoding="utf-8"))["rows"][1:] if RECORDED.path.is_file() else []
    if arguments.peers is not None:
        peers = Record.read(arguments.peers)
        with threads(1):
            found = reached({name: one["passes"] for name, one in first["reached"].items()}, arguments.rounds)
        here = machine_line(Settings(threads=1))
        if named(here) != named(peers.machine):
            raise SystemExit(f"--peers must be of this processor, {named(here)}, got {named(peers.machine)}.")
        row = {"machine": here, "steps": steps(peers.tables), "reached": found}
        rows = [one for one in rows if named(one["machine"]) != named(here)] + [row]
    RECORDED.write(arguments.output, [first, *rows])
    print(table([first, *rows]))


if __name__ == "__main__":
    main()
