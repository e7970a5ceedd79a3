# SPDX-License-Identifier: Apache-2.0
"""Signals that end a run: never between two steps that belong together, and what is half done is removed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, TypeVar

__all__ = ["ends_cleanly", "held_back_at_edges", "uninterrupted_edges"]

Manager = TypeVar("Manager", bound=Callable[..., Any])

_EDGES = {
    contextlib._GeneratorContextManager.__enter__.__code__,
    contextlib._GeneratorContextManager.__exit__.__code__,
}
_protected: set[CodeType] = set()


def uninterrupted_edges(manager: Manager) -> Manager:
    """Mark a function under ``@contextmanager``: Ctrl-C waits while its way in or out runs inside
    ``held_back_at_edges``."""
    _protected.add(manager.__wrapped__.__code__)  # type: ignore[attr-defined]
    return manager


def _at_an_edge(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code in _protected:
            return True
        if frame.f_code in _EDGES:
            generator = getattr(frame.f_locals.get("self"), "gen", None)
            if getattr(generator, "gi_code", None) in _protected:
                return True
        frame = frame.f_back
    return False


@contextmanager
def held_back_at_edges() -> Iterator[None]:
    """Let a Ctrl-C wait that arrives while a marked context manager enters or leaves; one that arrives between is
    raised at once.

    A ``finally`` cannot do that alone: a signal at the first instruction of an ``__exit__`` or of the ``finally``
    itself leaves it undone. Only in the main thread, and where Ctrl-C has Python's own handler.
    """
    known = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not known:
        yield
        return
    waiting: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if _at_an_edge(frame):
            waiting.append(number)
        else:
            known(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, known)
        if waiting:
            raise KeyboardInterrupt


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


_protected.add(held_back_at_edges.__wrapped__.__code__)  # type: ignore[attr-defined]
