# SPDX-License-Identifier: Apache-2.0
"""Bytes that autograd keeps between a forward and a backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["SavedBytes", "address", "only_watched"]


def address(tensor: torch.Tensor) -> int:
    """Where a tensor's storage begins: the same for all views of it."""
    return tensor.untyped_storage().data_ptr()


class SavedBytes:
    """Counts the storages that are saved for the backward pass, each once.

    Args:
        known: tensors that are there anyway, such as weights, and do not count.
    """

    only_watches = True

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        self._known = {address(tensor) for tensor in known}
        self._seen: dict[int, int] = {}

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count what is about to be saved; the hook that autograd calls."""
        if not isinstance(tensor, torch.nn.Parameter):
            self.add(tensor)
        return tensor.detach()

    def add(self, tensor: torch.Tensor) -> None:
        """Count one tensor that is kept for another reason."""
        if address(tensor) not in self._known:
            self._seen[address(tensor)] = tensor.untyped_storage().nbytes()

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(self._seen.values())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what this thread's forward passes save inside."""
        with saved_tensors_hooks(self, _as_it_is):
            yield


def _as_it_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def only_watched() -> bool:
    """Whether nothing looks at what autograd saves now, or only hooks that do not call the network again for it."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is None or getattr(hooks[0], "only_watches", False)
