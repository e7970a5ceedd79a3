# SPDX-License-Identifier: Apache-2.0
"""Time of competing jobs, measured in interleaved rounds so that a busy moment of the machine hits all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch

from monai_adversarial.attacks import ExactGradient

__all__ = ["Job", "StepClock", "Stopwatch", "run_rounds"]


@dataclass
class Stopwatch:
    """Seconds on the clock and seconds of CPU time (all threads) since it was made."""

    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)

    def seconds(self) -> tuple[float, float]:
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


class StepClock(ExactGradient):
    """Exact gradients that note when each evaluation begins: the time between two is a whole step of the attack."""

    def __init__(self) -> None:
        self.marks: list[Stopwatch] = []

    def evaluate(self, *args, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.marks.append(Stopwatch())
        return super().evaluate(*args, **kwargs)

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
    """

    name: str
    run: Callable[[], list[tuple[float, float]]]
    target: float | None = None
    reference: str = "floor"
    samples: list[tuple[float, float]] = field(default_factory=list)

    def wall(self) -> float:
        return median(sample[0] for sample in self.samples)

    def cpu(self) -> float:
        return median(sample[1] for sample in self.samples)

    def fastest(self) -> float:
        return min(sample[0] for sample in self.samples)


def run_rounds(jobs: list[Job], rounds: int, say: Callable[[str], None] = lambda text: None) -> None:
    """Run all jobs once to warm up, then ``rounds`` times in turn."""
    for number in range(rounds + 1):
        say(f"round {number} of {rounds}" if number else "warming up (compiling takes minutes)")
        for job in jobs:
            samples = job.run()
            if number:
                job.samples += samples
