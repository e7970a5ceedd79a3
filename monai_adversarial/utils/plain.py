# SPDX-License-Identifier: Apache-2.0
"""Tensors without metadata."""

from __future__ import annotations

import torch

__all__ = ["as_plain", "detached", "standard_layout"]


def as_plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside a ``MetaTensor`` (whose bookkeeping costs milliseconds per step), any other as it is."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor


def detached(tensor: torch.Tensor) -> torch.Tensor:
    """Without metadata, graph and inference mode (whose tensors cannot be differentiated), in the standard layout."""
    plain = as_plain(tensor)
    return standard_layout(plain.clone() if plain.is_inference() else plain.detach())


def standard_layout(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with the last axis fastest in memory; copied only where they lie otherwise.

    Random fills, sums and the kernels of networks follow the layout: equal voxels in another one (channels last,
    Fortran order as nibabel gives it, expanded or sliced) would give other bits.
    """
    if tensor.stride() == _strides(tensor.shape):
        return tensor
    return tensor.reshape(-1).view(tensor.shape)


def _strides(shape: torch.Size) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
