# SPDX-License-Identifier: Apache-2.0
"""How far a network's landmarks are from where they should be."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.scene import spacing_of

__all__ = ["landmark_distance"]


def landmark_distance(heatmaps: torch.Tensor, points: Any, *, spacing: Any = None) -> torch.Tensor:
    """Distance in mm between the maximum of each heatmap and its landmark.

    >>> import torch
    >>> from monai_adversarial.metrics import landmark_distance
    >>> heatmaps = torch.zeros(1, 1, 5, 5)
    >>> heatmaps[0, 0, 1, 4] = 1
    >>> landmark_distance(heatmaps, [[[1, 1]]], spacing=(1.0, 2.0)).tolist()
    [[6.0]]

    Args:
        heatmaps: (batch, landmark, spatial...), logits or probabilities; of several maxima the first voxel counts.
        points: voxel indices, (batch or 1, landmark, spatial axes).
        spacing: mm along each axis; None for that of a ``MetaTensor``'s affine.

    Returns:
        (batch, landmark), float64 on the CPU.

    Raises:
        ValueError: for points of another shape, and an unknown spacing.
    """
    steps = spacing_of(heatmaps, spacing)
    if steps is None:
        raise ValueError(
            "spacing is missing: distances are in mm, so pass a MetaTensor with an affine or spacing=(mm)."
        )
    plain, axes = as_plain(heatmaps).detach(), heatmaps.ndim - 2
    table = torch.as_tensor(points, dtype=torch.float64).detach().cpu()
    if table.ndim != 3 or table.shape[0] not in (1, plain.shape[0]) or table.shape[1:] != (plain.shape[1], axes):
        raise ValueError(
            f"points must have shape (1 or {plain.shape[0]}, {plain.shape[1]}, {axes}) to fit the heatmaps, got "
            f"{tuple(table.shape)}."
        )
    flat = plain.flatten(2).argmax(dim=2).cpu()
    places = torch.stack(torch.unravel_index(flat, plain.shape[2:]), dim=2).double()
    return ((places - table) * steps[:, None]).norm(dim=2)
