# SPDX-License-Identifier: Apache-2.0
"""Voxels of each class in a hard segmentation, in its reference and in both."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.attacks.objectives.base import Parts
from monai_adversarial.attacks.objectives.softmax_statistics import class_sums
from monai_adversarial.attacks.objectives.target import Target

__all__ = ["mean_iou", "overlap_counts"]


@torch.no_grad()
def overlap_counts(prediction: torch.Tensor, target: Target) -> Parts:
    """Weighted voxels in both, in the prediction and in the reference, each (batch, class), float64.

    Args:
        prediction: class map (batch, 1, spatial...) with softmax, masks (batch, class, spatial...) with sigmoid.
        target: the reference, or a part of one.
    """
    region = target.region(torch.float64)
    if target.activation == "sigmoid":
        true, found = target.one_hot() > 0.5, prediction > 0
        weight = None if region is None else region.unsqueeze(1)
        masks = [mask.double() if weight is None else mask * weight for mask in (found & true, found, true)]
        both, predicted, reference = (mask.flatten(2).sum(dim=2) for mask in masks)
        return both, predicted, reference
    found = prediction[:, 0].long()
    index = target.one_hot().max(dim=1).indices if target.index is None else target.index.long()
    ones = torch.ones(found.shape, dtype=torch.float64, device=found.device) if region is None else region
    counts = [
        class_sums(*of, target.classes) for of in ((ones * (found == index), index), (ones, found), (ones, index))
    ]
    return counts[0], counts[1], counts[2]


def mean_iou(counts: Parts, target: Target, organs: Sequence[int] | None) -> torch.Tensor:
    """Mean intersection over union of some classes, (batch,); classes that are in neither segmentation are left out,
    and where that leaves none the mean is 1.

    Args:
        counts: as ``overlap_counts`` returns them.
        target: the reference, or any part of it.
        organs: the classes; None for all but the background.

    Raises:
        ValueError: for a class that the network does not have.
    """
    first = 1 if target.activation == "softmax" else 0
    chosen = tuple(range(first, target.classes)) if organs is None else tuple(organs)
    if not chosen or min(chosen) < 0 or max(chosen) >= target.classes:
        raise ValueError(
            f"organs must name some of the network's classes 0 to {target.classes - 1}, got {list(chosen)}."
        )
    where = target.class_table(("iou", chosen), lambda: torch.tensor(chosen, device=target.device))
    both, predicted, reference = (part.index_select(1, where) for part in counts)
    return (both / (predicted + reference - both)).nanmean(dim=1).nan_to_num(1.0)
