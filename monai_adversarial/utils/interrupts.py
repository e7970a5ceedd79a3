# SPDX-License-Identifier: Apache-2.0
"""Signals that end a run: what is half done is removed on the way out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["ends_cleanly"]


@contextmanager
def ends_cleanly() -> Iterator[None]:
    """Let SIGTERM, which schedulers send before they kill and which would end the process on the spot, raise
    ``SystemExit(143)``. Only in the main thread, and where nobody else has asked for the signal."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
