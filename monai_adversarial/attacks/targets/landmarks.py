# SPDX-License-Identifier: Apache-2.0
"""Masks of landmarks, which networks that answer heatmaps are attacked with."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.utils.scene import spacing_of
from monai_adversarial.utils.validation import check_positive

__all__ = ["landmark_balls"]


def landmark_balls(points: Any, image: torch.Tensor, radius: float, *, spacing: Any = None) -> torch.Tensor:
    """One ball around each landmark: a label of one channel per landmark.

    Args:
        points: voxel indices of the landmarks, (batch or 1, landmark, spatial axes); fractions are allowed.
        image: (batch, channel, spatial...), whose grid the label has.
        radius: of a ball in mm; a voxel belongs to it where its center does.
        spacing: mm along each axis; None for that of a ``MetaTensor``'s affine.

    Returns:
        masks (batch, landmark, spatial...), float32, on the image's device.

    Raises:
        ValueError: for points of another shape or outside the image, a radius that reaches no voxel, and an unknown
            spacing.

    Example:
        >>> import torch
        >>> from monai_adversarial.attacks.targets import landmark_balls
        >>> image = torch.zeros(1, 1, 9, 9)
        >>> label = landmark_balls([[[4, 4], [0, 8]]], image, 2.0, spacing=(2.0, 1.0))
        >>> label.shape, label.sum(dim=(2, 3)).tolist()
        (torch.Size([1, 2, 9, 9]), [[7.0, 4.0]])
    """
    radius = check_positive("radius", radius)
    axes, batch = image.ndim - 2, image.shape[0]
    table = torch.as_tensor(points, dtype=torch.float64).detach().cpu()
    if table.ndim != 3 or table.shape[0] not in (1, batch) or table.shape[1] == 0 or table.shape[2] != axes:
        raise ValueError(
            f"points must have shape (1 or {batch}, landmarks, {axes}), voxel indices along each axis, got "
            f"{tuple(table.shape)}."
        )
    last = torch.tensor(image.shape[2:], dtype=torch.float64) - 1
    if not bool(((table >= 0) & (table <= last)).all()):
        raise ValueError(f"points must lie in the image, from 0 to {last.tolist()}, got {table.tolist()}.")
    steps = spacing_of(image, spacing)
    if steps is None:
        raise ValueError("spacing is missing: radius is in mm, so pass a MetaTensor with an affine or spacing=(mm).")
    table = table.expand(batch, *table.shape[1:])
    squared = torch.zeros(*table.shape[:2], *image.shape[2:], dtype=torch.float64)
    for axis, length in enumerate(image.shape[2:]):
        away = (torch.arange(length) - table[:, :, axis, None]) * steps[:, axis, None, None]
        shape = [*table.shape[:2], *[length if one == axis else 1 for one in range(axes)]]
        squared = squared + away.square().view(shape)
    balls = squared <= radius**2
    if not bool(balls.flatten(2).any(dim=2).all()):
        raise ValueError(f"radius must reach a voxel around every landmark, got {radius:g} mm.")
    return balls.float().to(image.device)
