# SPDX-License-Identifier: Apache-2.0
"""Where a figure was measured: machine and versions."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.settings import Settings
from monai_adversarial.utils.precision import Precision

__all__ = ["MEASURED_ON", "machine_line", "measured_on", "stamps", "threads"]

DISTRIBUTIONS = ("torch", "monai", "numpy")
#: what a record calls the processor and the precision of a row
MEASURED_ON = "measured_on"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch works with so many threads, and afterwards with as many as before.

    Args:
        count: at least 1.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


@cache
def measured_on() -> str:
    """Processor, version of torch and the precision that attacks take where a script names none; of a GPU its name."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    processor = torch.cuda.get_device_name() if device == "cuda" else _processor()
    return f"{processor}, torch {torch.__version__}, default precision {Precision('auto', device)}"


def stamps(rows: Sequence[Hashable], known: Iterable[tuple[Hashable, str]]) -> list[str]:
    """Where each row was measured: what the record says of rows that it has, which is nothing of old ones, and here
    for new ones.

    Args:
        rows: what is written; equal rows are the same row.
        known: rows of the record that is there, each with what it says.
    """
    before = dict(known)
    return [before.get(row, measured_on()) for row in rows]


def machine_line(settings: Settings) -> str:
    """One line: processor, cores, threads, memory, GPU, precision and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    computed = f"device {settings.device}"
    if settings.device.startswith("cuda"):
        computed += f" ({torch.cuda.get_device_name(settings.device)})"
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in DISTRIBUTIONS)
    return (
        f"{_processor()} ({platform.machine()}, {os.cpu_count()} cores, {settings.threads} threads, {memory:.0f} GiB), "
        f"{computed}, default precision {Precision('auto', settings.device)}; "
        f"Python {platform.python_version()}, {versions}"
    )
