# SPDX-License-Identifier: Apache-2.0
"""Measurements that need a process of their own: its peak of memory, or two that run side by side.

Each process is forked from a server that has imported everything and computed nothing: it starts at once, and its
resident memory before the work holds nothing of another measurement.
"""

from __future__ import annotations

import importlib
import multiprocessing
import re
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["Fresh", "extra_megabytes", "status_megabytes"]


def status_megabytes(name: str) -> float:
    """Megabytes of a field of /proc/self/status: VmRSS now, VmHWM at its peak."""
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"this system does not tell {name}: memory can be measured on Linux only.")
    return int(found.group(1)) / 1024


def _measure(connection: Connection, module: str, function: str, threads: int, arguments: dict[str, Any]) -> None:
    try:
        import torch

        from benchmarks.timing import Stopwatch

        torch.set_num_threads(threads)
        work: Callable[[], object] = getattr(importlib.import_module(module), function)(**arguments)
        connection.send("ready")
        connection.recv()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = status_megabytes("VmRSS")
        watch = Stopwatch()
        work()
        seconds, cpu = watch.seconds()
        connection.send({"megabytes": status_megabytes("VmHWM") - before, "seconds": seconds, "cpu": cpu})
    except Exception as error:
        connection.send(error)


class Fresh:
    """A process that has prepared itself; ``start`` lets it work and ``result`` waits for what it measured.

    Args:
        module: where the function is.
        function: called with ``arguments``, prepares, warms up, and returns a callable without arguments: the work.
        threads: of torch in that process.
        arguments: plain values.

    Raises:
        RuntimeError: when the process fails, with its reason.
    """

    def __init__(self, module: str, function: str, threads: int, **arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.preload"])
        self._what = f"{module}.{function} with {arguments}"
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_measure, args=(theirs, module, function, threads, arguments))
        self._process.start()
        theirs.close()
        self._receive()

    def _receive(self) -> Any:
        try:
            said = self._connection.recv()
        except EOFError:
            self._process.join()
            said = RuntimeError(f"it ended with exit code {self._process.exitcode}")
        if isinstance(said, Exception):
            raise RuntimeError(f"the measurement of {self._what} failed: {said}") from said
        return said

    def start(self) -> None:
        """Let it work."""
        self._connection.send("go")

    def result(self) -> dict[str, float]:
        """What it measured: ``megabytes`` beyond those before, ``seconds`` and ``cpu`` seconds."""
        found = self._receive()
        self._process.join()
        return found


def extra_megabytes(module: str, function: str, threads: int, **arguments: Any) -> float:
    """Megabytes that the work added to the resident memory at its peak, see ``Fresh``."""
    fresh = Fresh(module, function, threads, **arguments)
    fresh.start()
    return fresh.result()["megabytes"]
