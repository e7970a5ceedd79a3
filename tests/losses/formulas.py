# SPDX-License-Identifier: Apache-2.0
"""The losses once more, in NumPy and one voxel after the other."""

from __future__ import annotations

import numpy as np
import torch


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis; one logit is the foreground of two classes."""
    if logits.shape[-1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=-1)
    exponent = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float(sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True)))


def voxels(rows: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Logits (1, class, voxels, 1) from one row per voxel."""
    return torch.as_tensor(np.asarray(rows), dtype=dtype).T[None, :, :, None].clone()


def class_map(classes: list[int]) -> torch.Tensor:
    """Label (1, 1, voxels, 1)."""
    return torch.tensor(classes)[None, None, :, None]
