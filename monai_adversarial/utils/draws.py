# SPDX-License-Identifier: Apache-2.0
"""Which draw of a random defense a forward pass sees.

A random operation makes its generators anew from a case's seed and the draw in force. A forward pass that is repeated
(checkpointing, one window after the other) therefore sees the same draw, and batch size, order and early stopping
change nothing.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["InForce", "chance", "current_draw", "draw_seed", "random_draw"]


class InForce:
    """Values that hold for a while in one thread, and in the backward passes that this thread starts.

    Autograd runs the backward pass of CUDA tensors in threads of its own, where activation checkpointing calls the
    network again. Neither ``threading.local`` nor a context variable follows it there; torch's thread-local objects do.

    Args:
        name: of the kind of value; one object per name.
    """

    def __init__(self, name: str) -> None:
        self._key = f"monai_adversarial.{name}"
        # The same for torch.compile, which cannot look at thread-local objects; networks are compiled in the main
        # thread only.
        self._traced: list[Any] = []

    def get(self) -> tuple[Any, ...]:
        """What is in force, the latest last; empty outside."""
        if torch.compiler.is_compiling():
            return tuple(self._traced)
        return torch._C._get_obj_in_tls(self._key) if torch._C._is_key_in_tls(self._key) else ()

    @contextmanager
    def replaced(self, values: tuple[Any, ...]) -> Iterator[None]:
        """Other values for a while; what was in force is so again afterwards."""
        before = self.get()
        self._set(values)
        try:
            yield
        finally:
            self._set(before)

    def _set(self, values: tuple[Any, ...]) -> None:
        if threading.current_thread() is threading.main_thread():
            self._traced[:] = values
        if values:
            torch._C._stash_obj_in_tls(self._key, values)
        elif torch._C._is_key_in_tls(self._key):  # nothing stays behind when the thread ends
            torch._C._remove_obj_from_tls(self._key)


DRAWS = InForce("draws")


def chance(seed: int, *numbers: int) -> float:
    """A number from 0 to 1 that depends on its arguments alone: the same on every rank and after a restart."""
    digest = hashlib.blake2b(",".join(map(str, (seed, *numbers))).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


@contextmanager
def random_draw(*numbers: int) -> Iterator[None]:
    """Name the draw for a while, in this thread; nested draws add their numbers."""
    with DRAWS.replaced((*DRAWS.get(), *numbers)):
        yield


def current_draw() -> tuple[int, ...]:
    """The draw in force; empty outside an attack."""
    return DRAWS.get()


def draw_seed(case_seed: int, *stream: int) -> int:
    """Seed of a generator for one case, the draw in force and an operation's own ``stream``."""
    text = ",".join(map(str, (case_seed, *current_draw(), -1, *stream))).encode()
    return zlib.crc32(text) | zlib.crc32(text, 0x9E3779B9) << 32 & 0x7FFF_FFFF_FFFF_FFFF
