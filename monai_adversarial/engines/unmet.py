# SPDX-License-Identifier: Apache-2.0
"""Attacks of engines that no batch ever met: said where the process ends, when nobody else can say it any more."""

from __future__ import annotations

import atexit
import itertools
import os
import sys
import threading
from collections import Counter

__all__ = ["Unmet", "forget_unmet", "unmet_sentence"]

_waiting: dict[int, tuple[int, str]] = {}  # number: process and name
_numbers = itertools.count()
_lock = threading.Lock()


class Unmet:
    """Stands for an attack until a batch meets it.

    Made and never attached, an attack leaves an evaluation that is a clean one, and nothing else shows it: an overlay
    without ``engine:``, a handler in a list that nobody attaches, or one that is cut from it.

    Args:
        name: of what was made, as a sentence names it.
    """

    def __init__(self, name: str) -> None:
        with _lock:
            self._number = next(_numbers)
            _waiting[self._number] = (os.getpid(), name)

    def met(self) -> None:
        """A batch has met it."""
        _waiting.pop(self._number, None)


def unmet_sentence() -> str:
    """What is said of the attacks that this process has made and that no batch has met so far; empty for none."""
    with _lock:
        counted = Counter(name for process, name in _waiting.values() if process == os.getpid())
    if not counted:
        return ""
    names = ", ".join(name if count == 1 else f"{count} times {name}" for name, count in counted.items())
    return (
        f"made, but no batch ever met it: {names}. What ran without it was clean: give it engine=, attach it, or name "
        "it where the engine's handlers are listed."
    )


def forget_unmet() -> None:
    """Say nothing of what was made so far: for a process that made attacks to look at them."""
    with _lock:
        _waiting.clear()


def _say_at_exit() -> None:
    sentence = unmet_sentence()
    if sentence and not hasattr(sys, "last_value"):  # an error has said why nothing ran
        print(f"warning: {sentence}", file=sys.stderr)


atexit.register(_say_at_exit)
