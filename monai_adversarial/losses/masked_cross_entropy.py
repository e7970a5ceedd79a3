# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy at the voxels that count."""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["masked_cross_entropy"]


def masked_cross_entropy(
    logits: torch.Tensor, label: torch.Tensor, mask: torch.Tensor, balanced: bool = False
) -> torch.Tensor:
    """Mean cross-entropy over the voxels of a mask; zero where the mask is empty.

    Args:
        logits: (batch, class, spatial...); one class is a sigmoid network.
        label: class map (batch, 1, spatial...).
        mask: weights >= 0, (batch, 1, spatial...).
        balanced: the mean over classes of the mean over each class's voxels in the batch, so that the background does
            not drown a small organ; classes without a voxel are left out.
    """
    logits = logits.float()
    if logits.shape[1] == 1:
        loss = functional.binary_cross_entropy_with_logits(logits, label.to(logits), reduction="none")[:, 0]
    else:
        loss = functional.cross_entropy(logits, label[:, 0].long(), reduction="none")
    weight = mask[:, 0].to(loss)
    if balanced:
        classes = max(logits.shape[1], 2)
        index = label[:, 0].long().flatten()
        sizes = weight.new_zeros(classes).index_add_(0, index, weight.flatten())
        present = (sizes > 0).sum().clamp_min(1)
        return (loss * weight).flatten().div(sizes.clamp_min(1e-8)[index]).sum() / present
    return (loss * weight).sum() / weight.sum().clamp_min(1.0)
