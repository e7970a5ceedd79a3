# SPDX-License-Identifier: Apache-2.0
"""Whether code reads a number that it counts in, or only counts."""

from __future__ import annotations

import dis
from collections.abc import Collection, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

from monai_adversarial.utils.hashing import is_of_library

__all__ = ["is_read"]


def is_read(thing: object, name: str, counted: Collection[str]) -> bool:
    """Whether a method of an object, or a function that it holds, asks for an attribute on a line that stores no
    counted one.

    ``self.calls += 1`` and ``self.most = max(self.most, self.calls)`` count; ``if self.calls > 3:`` reads. Code of
    libraries is not looked at.

    >>> from monai_adversarial.utils.counters import is_read
    >>> class Switch:
    ...     def ask(self):
    ...         self.calls += 1
    ...         self.asked += 1
    ...         return self.calls > 3
    >>> is_read(Switch(), "calls", {"calls", "asked"}), is_read(Switch(), "asked", {"calls", "asked"})
    (True, False)

    Args:
        thing: has the attribute.
        name: of the attribute.
        counted: names of the attributes that count.
    """
    own = [vars(kind) for kind in type(thing).__mro__ if not is_of_library(kind.__module__)]
    return any(
        name in loaded and not stored.intersection(counted)
        for namespace in (vars(thing), *own)
        for code in _codes(namespace)
        for loaded, stored in _lines(code)
    )


def _codes(namespace: Mapping[str, Any]) -> Iterator[CodeType]:
    """Code of functions, methods and properties, and of the functions in them."""
    waiting: list[CodeType] = []
    for value in namespace.values():
        parts = (value.fget, value.fset) if isinstance(value, property) else (getattr(value, "__func__", value),)
        waiting += [part.__code__ for part in parts if isinstance(part, FunctionType)]
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _lines(code: CodeType) -> Iterator[tuple[set[str], set[str]]]:
    """Names of the attributes that each line of some code loads and stores."""
    line_of = {offset: line for start, end, line in code.co_lines() for offset in range(start, end)}
    found: dict[int | None, tuple[set[str], set[str]]] = {}
    for instruction in dis.get_instructions(code):
        loaded, stored = found.setdefault(line_of.get(instruction.offset), (set(), set()))
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            loaded.add(str(instruction.argval))
        elif instruction.opname == "STORE_ATTR":
            stored.add(str(instruction.argval))
    yield from found.values()
