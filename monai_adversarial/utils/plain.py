# SPDX-License-Identifier: Apache-2.0
"""Tensors without metadata."""

from __future__ import annotations

import torch

__all__ = ["as_plain", "detached"]


def as_plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside a ``MetaTensor`` (whose bookkeeping costs milliseconds per step), any other as it is."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor


def detached(tensor: torch.Tensor) -> torch.Tensor:
    """Without metadata, graph and inference mode (whose tensors cannot be differentiated)."""
    plain = as_plain(tensor)
    return plain.clone() if plain.is_inference() else plain.detach()
