# SPDX-License-Identifier: Apache-2.0
"""Whether code asks for the time."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

__all__ = ["reads_clock"]

_MODULES = ("time", "datetime")


def reads_clock(function: FunctionType) -> bool:
    """Whether a function, or one inside of it, names ``time`` or ``datetime``, or something of them.

    What it does with the time is not known: many networks only measure how long they take.

    >>> import time
    >>> from monai_adversarial.utils.clocks import reads_clock
    >>> reads_clock(lambda: time.time()), reads_clock(lambda timed: timed.time)
    (True, False)

    Args:
        function: written in Python.
    """
    return any(_is_of_clock(name, imported, function.__globals__) for name, imported in _names(function.__code__))


def _names(code: CodeType) -> Iterator[tuple[str, bool]]:
    """Global names and names of modules that some code asks for; whether it imports them itself."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"):
            yield str(instruction.argval), instruction.opname == "IMPORT_NAME"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_of_clock(name: str, imported: bool, known: dict[str, Any]) -> bool:
    if imported:
        return name in _MODULES
    value = known.get(name)
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return module in _MODULES
