# SPDX-License-Identifier: Apache-2.0
"""Tensors without metadata."""

from __future__ import annotations

import torch

__all__ = ["as_plain"]


def as_plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor inside a ``MetaTensor`` (whose bookkeeping costs milliseconds per step), any other as it is."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
