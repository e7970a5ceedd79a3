# SPDX-License-Identifier: Apache-2.0
"""Structural similarity of whole images, per sample and differentiable."""

from __future__ import annotations

import torch
from monai.losses import SSIMLoss

__all__ = ["structural_similarity"]


def structural_similarity(changed: torch.Tensor, clean: torch.Tensor, window_size: int = 7) -> torch.Tensor:
    """SSIM of each sample, by MONAI's ``SSIMLoss`` with its Gaussian window in as many dimensions as the image has.

    >>> import torch
    >>> image = torch.rand(2, 1, 8, 8, 8)
    >>> structural_similarity(image, image).tolist()
    [1.0, 1.0]

    Args:
        changed: (batch, channel, spatial...), 2 or 3 spatial dimensions, values from 0 to 1.
        clean: of the same shape.
        window_size: of the Gaussian window in voxels, odd; made smaller where an axis is shorter.

    Returns:
        (batch,), at most 1, differentiable in both.

    Raises:
        ValueError: for images that are not 2D or 3D.
    """
    dimensions = clean.ndim - 2
    if dimensions not in (2, 3):
        raise ValueError(f"SSIM needs images with 2 or 3 spatial dimensions, got shape {tuple(clean.shape)}.")
    size = min(window_size, *clean.shape[2:])
    loss = SSIMLoss(dimensions, data_range=1.0, win_size=size - (size + 1) % 2, reduction="none")
    # Half precision would round the small differences of local variances.
    with torch.autocast(changed.device.type, enabled=False):
        return 1 - loss(changed, clean)[:, 0]
