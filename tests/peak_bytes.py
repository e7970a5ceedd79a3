# SPDX-License-Identifier: Apache-2.0
"""Memory of tensors, counted exactly."""

from __future__ import annotations

import weakref

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """Largest number of bytes in live storages created inside, less those of a network if one is given."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.live = self.peak = 0
        there = () if network is None else (*network.parameters(), *network.buffers())
        self.known = {tensor.untyped_storage()._cdata: 0 for tensor in there}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.known[storage._cdata] = storage.nbytes()
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self.forget, storage._cdata)
        return result

    def forget(self, key: int) -> None:
        self.live -= self.known.pop(key, 0)
