# SPDX-License-Identifier: Apache-2.0
"""The part of an audit that one of several processes runs: of ``torchrun``, or of a job array."""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist

__all__ = ["Shard"]

Item = TypeVar("Item")

#: how long the first process waits for the others before it reports without them
LONGEST_WAIT = timedelta(days=2)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th case, from ``rank``.

    Records are files, one for each cell, so that the processes share nothing while they run: a process that dies leaves
    whole records, and the next run, with any number of processes, computes what is missing.

    Args:
        rank: of this process, from 0.
        count: number of processes.
        together: whether they were started together, by ``torchrun``, and can wait for each other.
    """

    rank: int = 0
    count: int = 1
    together: bool = False

    @classmethod
    def from_text(cls, text: str) -> Shard:
        """The shard of an option such as ``"0/8"``: rank and number of processes.

        Raises:
            ValueError: for anything else.
        """
        parts = text.split("/")
        if (
            len(parts) != 2
            or not all(part.strip().isdecimal() for part in parts)
            or not 0 <= int(parts[0]) < int(parts[1])
        ):
            raise ValueError(f"shard must be RANK/COUNT with 0 <= RANK < COUNT, for example 0/8, got {text!r}.")
        return cls(int(parts[0]), int(parts[1]))

    @classmethod
    def from_environment(cls) -> Shard:
        """The shard of a process of ``torchrun``; the only one elsewhere."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count <= 1 or "RANK" not in os.environ:
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=LONGEST_WAIT)
            atexit.register(_leave)  # its threads must not outlive Python: that ends the process with SIGABRT
        return cls(dist.get_rank(), dist.get_world_size(), together=True)

    def part(self, items: Sequence[Item]) -> list[Item]:
        """The items of this process."""
        return list(items[self.rank :: self.count])

    def wait(self) -> None:
        """Wait for the others, where they were started together."""
        if self.together:
            dist.barrier()
