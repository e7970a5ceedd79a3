# SPDX-License-Identifier: Apache-2.0
"""glibc's heap of this process, where the C library is glibc."""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass
from typing import Any

__all__ = ["Heap", "glibc", "heap"]


class _Mallinfo2(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks")
        + ("uordblks", "fordblks", "keepcost")
    ]


@functools.lru_cache(maxsize=1)
def glibc() -> Any:
    """The C library, or None where it is not glibc."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (only glibc has it)
        library.mallopt.argtypes, library.mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
        library.malloc_trim.argtypes, library.malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
    except (OSError, AttributeError):
        return None
    return library


@dataclass(frozen=True)
class Heap:
    """Bytes that the C library has handed out (``used``) and that it holds for the next request (``free``)."""

    used: int
    free: int


def heap() -> Heap | None:
    """The heap now; None where it cannot be asked: another C library, or glibc before 2.33."""
    library = glibc()
    ask = getattr(library, "mallinfo2", None)
    if ask is None:
        return None
    ask.restype = _Mallinfo2
    found = ask()
    # Large blocks that are mapped one by one are counted apart.
    return Heap(used=found.uordblks + found.hblkhd, free=found.fordblks)
