# SPDX-License-Identifier: Apache-2.0
"""Time of competing jobs, measured in interleaved rounds so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import torch

from benchmarks.tables import Cell, Column, Table, judged
from monai_adversarial.attacks.attack import Attack

__all__ = ["TIMING_COLUMNS", "Job", "StepClock", "Stopwatch", "quartiles", "run_rounds", "timed", "timing_table"]

TIMING_COLUMNS = (
    *(Column("CPU ratio", 2), Column("its quartiles"), Column("ratio of wall time", 2)),
    *(Column("CPU seconds", 3), Column("seconds", 3), Column("target")),
)


@dataclass
class Stopwatch:
    """Seconds on the clock and seconds of CPU time (all threads) since it was made."""

    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


class StepClock:
    """Notes when each gradient evaluation of an attack begins: the time between two is a whole step of the attack.

    The attack keeps its own way to a gradient; see ``attach``.
    """

    def __init__(self) -> None:
        self.marks: list[Stopwatch] = []

    def attach(self, attack: Attack) -> Attack:
        """The attack itself, its evaluations noted from now on."""
        clock = self
        kind: Any = type(attack.gradient)

        class Noted(kind):  # a subclass of whatever the attack uses by default: it must not take another path
            def evaluate(self, *args: Any, **kwargs: Any) -> Any:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                clock.marks.append(Stopwatch())
                return super().evaluate(*args, **kwargs)

        noted = copy.copy(attack.gradient)
        noted.__class__ = Noted
        attack.gradient = noted
        return attack

    def steps(self) -> list[tuple[float, float]]:
        """(wall, CPU) seconds of each step but the first and the last of a call, then forget them."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))[1:]
        self.marks = []
        return [(later.wall - earlier.wall, later.cpu - earlier.cpu) for earlier, later in pairs]


@dataclass
class Job:
    """A row of the table.

    Args:
        name: what it is.
        run: runs it and returns one or more samples of (wall, CPU) seconds.
        target: highest accepted ratio to the floor, None where there is none.
        reference: name of the job whose time is one.
        warm_up: run once before the rounds instead of ``run``, where that is long.
    """

    name: str
    run: Callable[[], list[tuple[float, float]]]
    target: float | None = None
    reference: str = "floor"
    samples: list[tuple[float, float]] = field(default_factory=list)
    warm_up: Callable[[], object] | None = None

    def wall(self) -> float:
        return median(sample[0] for sample in self.samples)

    def cpu(self) -> float:
        return median(sample[1] for sample in self.samples)

    def fastest(self) -> float:
        return min(sample[0] for sample in self.samples)

    def cells(self, reference: Job) -> list[Cell]:
        """One cell per column of ``TIMING_COLUMNS``; the target is that of the CPU ratio."""
        unit = reference.cpu()
        ratio = self.cpu() / unit
        spread = quartiles([sample[1] / unit for sample in self.samples])
        wall = self.wall() / reference.wall()
        return [ratio, spread, wall, self.cpu(), self.wall(), judged(ratio, self.target)]


def quartiles(values: Sequence[float], digits: int = 2) -> str:
    """``[first, third]`` quartile of some values, of one value twice the same."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def timed(work: Callable[[], Any], repeats: int = 1) -> Callable[[], list[tuple[float, float]]]:
    """A job's ``run`` that calls ``work`` and takes its time."""

    def run() -> list[tuple[float, float]]:
        samples = []
        for _ in range(repeats):
            watch = Stopwatch()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            samples.append(watch.seconds())
        return samples

    return run


def timing_table(name: str, title: str, jobs: Sequence[Job], first: str = "what") -> Table:
    """One row per job, divided by its reference, which is among the jobs."""
    table = Table(name, title, (Column(first), *TIMING_COLUMNS))
    by_name = {job.name: job for job in jobs}
    for job in jobs:
        table.add(job.name, *job.cells(by_name[job.reference]))
    return table


def run_rounds(jobs: list[Job], rounds: int, say: Callable[[str], None] = lambda text: None) -> None:
    """Run all jobs once to warm up, then ``rounds`` times in turn."""
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warming up (compiling takes minutes)")
        for job in jobs:
            if number:
                job.samples += job.run()
            else:
                (job.warm_up or job.run)()
