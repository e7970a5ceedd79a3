# SPDX-License-Identifier: Apache-2.0
"""Memory that a CPU attack step frees is kept for the next step, within bounds."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from monai_adversarial.utils.c_library import glibc
from monai_adversarial.utils.free_memory import private_bytes, reusable_heap

__all__ = ["EXCESS", "give_back_excess", "give_back_growth", "keep_freed_memory", "keep_no_large_blocks"]

# Names and numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER_TRIM = -1
_DEFAULT_MMAP_MAX = 65536
# glibc raises its thresholds by itself, to at most these values, as soon as a program frees large blocks. Setting any
# of them by hand ends that, so the values that a program with large tensors had reached are what is restored.
_REACHED_MMAP_THRESHOLD = 32 << 20
_REACHED_TRIM_THRESHOLD = 64 << 20

_SETTINGS_OF_THE_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")

#: bytes; less is not worth the page faults: about the working memory of a window
EXCESS = 16 << 20

# Feature maps of large images are above it, what belongs to their bookkeeping is below.
_LARGE_BLOCK = 8 << 20
# What was left the last time: parts of pages, and memory of others that cannot be told from the heap.
_not_to_give_back = 0

_lock = threading.Lock()
_depth = 0


@dataclass
class _Growth:
    """How large the process was at the ends of pieces of work that began with a heap without holes.

    Args:
        largest: bytes; what any of them left behind.
        began_compact: the heap had no holes when the piece of work began that ends now.
    """

    largest: int = 0
    began_compact: bool = True


_growth = _Growth()


def _is_wanted(device: torch.device | str | None) -> bool:
    if device is not None and torch.device(device).type != "cpu":
        return False
    if os.environ.get("MONAI_ADVERSARIAL_ALLOCATOR", "1") == "0":
        return False
    # Whoever tunes glibc keeps the values.
    if any(name in os.environ for name in _SETTINGS_OF_THE_USER) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    ):
        return False
    return glibc() is not None


@contextlib.contextmanager
def keep_freed_memory(device: torch.device | str | None = None) -> Iterator[None]:
    """Context in which the C library keeps freed memory instead of giving it back to the system.

    glibc maps every block above 32 MiB from the system anew and gives it back when it is freed. A step of an attack on
    a 96 x 96 x 96 volume does so hundreds of times, and the system clears each page again when it is touched: 130 000
    page faults, a third of the time of a float32 step. Inside this context blocks come from the heap and the heap does
    not shrink, so that from the second step on there are no page faults. Results do not change. On leaving, glibc's
    thresholds are as before and free memory goes back to the system.

    The setting holds for the whole process while any thread is inside. Nothing happens on CUDA, on other systems than
    Linux with glibc, where the environment tunes glibc already (``MALLOC_*_``, ``GLIBC_TUNABLES``), or with
    ``MONAI_ADVERSARIAL_ALLOCATOR=0``.

    Args:
        device: where the attack computes; None for the CPU.
    """
    global _depth, _growth
    if not _is_wanted(device):
        yield
        return
    library = glibc()
    with _lock:
        _depth += 1
        if _depth == 1:
            _growth = _Growth()
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, _NEVER_TRIM)
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
                library.mallopt(_MMAP_THRESHOLD, _REACHED_MMAP_THRESHOLD)
                library.mallopt(_TRIM_THRESHOLD, _REACHED_TRIM_THRESHOLD)
                library.malloc_trim(0)


def give_back_excess(device: torch.device | str | None = None, excess: int = EXCESS) -> bool:
    """Give memory back to the system where the C library holds more than 16 MiB that nobody uses.

    Small blocks come to lie in the space of freed large ones, which then are a little too small for the next large one:
    a heap that never shrinks grows by and by. Called where one kind of work ends and another begins, which needs blocks
    of other sizes: between the steps of an attack and its scores, or between stages of a network that is computed
    again. What comes back costs page faults: work that changes often is better served by :func:`give_back_growth`.

    Args:
        device: where the attack computes; None for the CPU. Nothing happens where :func:`keep_freed_memory` does
            nothing.
        excess: bytes, instead of 16 MiB.

    Returns:
        Whether memory was given back.
    """
    global _not_to_give_back
    if not _is_wanted(device) or reusable_heap() <= _not_to_give_back + excess:
        return False
    glibc().malloc_trim(0)
    _not_to_give_back = reusable_heap()
    return True


def give_back_growth(device: torch.device | str | None = None, excess: int = EXCESS) -> bool:
    """Give memory back as :func:`give_back_excess` does, where the process has outgrown its need by more than 16 MiB.

    Called between pieces of work that take turns, as windows and objective do in every step: what is given back between
    them comes back in each step, page by page. The need is how large the process was after the largest piece of work
    that began with a heap without holes, since :func:`keep_freed_memory` was entered. A piece that needs more than is
    known so far is followed by giving back, and so is one after which holes have made the heap larger than the need.

    Args:
        device: see :func:`give_back_excess`.
        excess: bytes, instead of 16 MiB.

    Returns:
        Whether memory was given back.
    """
    if not _is_wanted(device):
        return False
    size = private_bytes() or 0
    growth = _growth
    if size <= growth.largest + excess:
        growth.began_compact = False
        return False
    if growth.began_compact:
        growth.largest = size
    given = give_back_excess(device, excess)
    # Where there was nothing to give back, there are no holes to speak of.
    growth.began_compact = True
    return given


def keep_no_large_blocks(device: torch.device | str | None = None) -> None:
    """From here to the end of :func:`keep_freed_memory`, large blocks come from the system and go back to it at once.

    That costs page faults and leaves no holes: for work that has more need of memory than of time.

    Args:
        device: where the attack computes; None for the CPU.
    """
    if not _is_wanted(device):
        return
    with _lock:
        if _depth:
            library = glibc()
            library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
            library.mallopt(_MMAP_THRESHOLD, _LARGE_BLOCK)
