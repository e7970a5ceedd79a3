# SPDX-License-Identifier: Apache-2.0
"""How a sum is spread over voxels: evenly, or on few of them."""

from __future__ import annotations

import math

import torch

__all__ = ["TOP_PERCENT", "concentration"]

#: percents of the voxels whose part in the whole is counted
TOP_PERCENT = (1, 5)


def concentration(values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gini coefficient, entropy, and what the largest voxels have of the whole.

    Args:
        values: (row, voxel), >= 0, float64. Differentiable twice where all are above 0.

    Returns:
        Each (row,), NaN for a row of zeros. ``gini``: 0 for even values, near 1 for a single voxel. ``entropy``: of the
        shares, divided by its largest value; 1 for even values. ``top_1_percent``, ``top_5_percent``: share of the sum
        in that part of the voxels, rounded up.
    """
    voxels = values.shape[1]
    share = values / values.sum(dim=1, keepdim=True)
    rising = share.sort(dim=1).values
    place = torch.arange(1, voxels + 1, dtype=values.dtype, device=values.device)
    found = {
        "gini": ((2 * place - voxels - 1) * rising).sum(dim=1) / voxels,
        "entropy": torch.special.entr(share).sum(dim=1) / math.log(max(voxels, 2)),
    }
    for percent in TOP_PERCENT:
        found[f"top_{percent}_percent"] = rising[:, -math.ceil(percent * voxels / 100) :].sum(dim=1)
    return found
