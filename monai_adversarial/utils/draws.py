# SPDX-License-Identifier: Apache-2.0
"""Which draw of a random defense a forward pass sees.

A random operation makes its generators anew from a case's seed and the draw in force. A forward pass that is repeated
(checkpointing, one window after the other) therefore sees the same draw, and batch size, order and early stopping
change nothing.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["chance", "current_draw", "draw_seed", "random_draw"]

_in_force: list[int] = []


def chance(seed: int, *numbers: int) -> float:
    """A number from 0 to 1 that depends on its arguments alone: the same on every rank and after a restart."""
    digest = hashlib.blake2b(",".join(map(str, (seed, *numbers))).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


@contextmanager
def random_draw(*numbers: int) -> Iterator[None]:
    """Name the draw for a while; nested draws add their numbers."""
    _in_force.extend(numbers)
    try:
        yield
    finally:
        del _in_force[len(_in_force) - len(numbers) :]


def current_draw() -> tuple[int, ...]:
    """The draw in force; empty outside an attack."""
    return tuple(_in_force)


def draw_seed(case_seed: int, *stream: int) -> int:
    """Seed of a generator for one case, the draw in force and an operation's own ``stream``."""
    text = ",".join(map(str, (case_seed, *current_draw(), -1, *stream))).encode()
    return zlib.crc32(text) | zlib.crc32(text, 0x9E3779B9) << 32 & 0x7FFF_FFFF_FFFF_FFFF
