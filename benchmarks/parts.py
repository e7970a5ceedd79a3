# SPDX-License-Identifier: Apache-2.0
"""The parts of ``python -m benchmarks``, and how one of them is run and kept."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import machine_line
from benchmarks.settings import Settings
from benchmarks.tables import Table
from monai_adversarial.utils.files import replace_when_complete

__all__ = ["PARTS", "Part", "Record", "read_records"]

Say = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """A group of tables that is measured together.

    Args:
        name: for ``--only``.
        what: one line for ``--help``.
        module: has ``tables(settings, say)``, which returns a list of ``Table``; imported when the part is run.
    """

    name: str
    what: str
    module: str

    def run(self, settings: Settings, say: Say) -> Record:
        """Measure it."""
        begin = time.perf_counter()
        tables = importlib.import_module(self.module).tables(settings, say)
        return Record(self.name, machine_line(settings), asdict(settings), time.perf_counter() - begin, tables)


@dataclass
class Record:
    """What a part measured, and where.

    Args:
        part: its name.
        machine: one line.
        settings: as given, see ``Settings``.
        seconds: that the part took.
        tables: its tables.
    """

    part: str
    machine: str
    settings: dict[str, Any]
    seconds: float
    tables: list[Table]

    def save(self, folder: Path) -> None:
        """Write ``PART.json`` into a folder that exists."""
        plain = {**vars(self), "seconds": round(self.seconds, 1), "tables": [one.as_plain() for one in self.tables]}
        with replace_when_complete(folder / f"{self.part}.json") as temporary:
            temporary.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def shown(self, table: Table) -> str:
        """One of its tables as Markdown, with where it was measured below."""
        return f"{table.markdown()}\n\nMeasured on {self.machine}; this part took {self.seconds:.0f} s."

    @classmethod
    def read(cls, path: Path) -> Record:
        """What ``save`` wrote."""
        plain = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**plain, "tables": [Table.from_plain(one) for one in plain["tables"]]})


def read_records(folder: Path) -> dict[str, Record]:
    """Part -> record, of every part that has a file in the folder, in the order of ``PARTS``."""
    paths = {part.name: folder / f"{part.name}.json" for part in PARTS}
    return {name: Record.read(path) for name, path in paths.items() if path.is_file()}


PARTS = (
    Part("steps", "time of one attack step against the floor", "benchmarks.step_time"),
    Part("windows", "time of a whole-volume step against its windows", "benchmarks.window_time"),
    Part("peers", "time of a step and of a call of other libraries, beside ours", "benchmarks.peer_time"),
    Part("peer_memory", "peak memory of a call of other libraries, beside ours", "benchmarks.peer_memory"),
    Part("peer_strength", "Dice at equal cost, and cost of an equal Dice", "benchmarks.peer_strength"),
    Part("memory", "peak memory at few and at many windows", "benchmarks.window_memory"),
    Part("volumes", "peak memory in volumes, at few and at many classes", "benchmarks.volume_memory"),
    Part("layers", "peak memory where layers are computed again", "benchmarks.layer_memory"),
    Part("scaling", "time over batch, volume, windows, classes, processes", "benchmarks.scaling"),
    Part("planes", "time of a step on a 2D network with a DenseNet121 encoder", "benchmarks.plane_time"),
    Part("strength", "Dice after attack in every precision mode", "benchmarks.precision_strength"),
    Part("purifiers", "time of purifiers against CPU libraries", "benchmarks.purifier_time"),
    Part("training", "time of a training iteration", "benchmarks.training_overhead"),
    Part("gpu", "step, memory and synchronizations on CUDA", "benchmarks.gpu_time"),
)
