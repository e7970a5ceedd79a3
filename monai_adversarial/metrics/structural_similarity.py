# SPDX-License-Identifier: Apache-2.0
"""Structural similarity of whole images, per sample and differentiable."""

from __future__ import annotations

import torch
from monai.networks.layers import separable_filtering

__all__ = ["structural_similarity"]

# Width of the window in voxels, and the constants for values from 0 to 1, of Wang et al. 2004.
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2


def structural_similarity(changed: torch.Tensor, clean: torch.Tensor, window_size: int = 7) -> torch.Tensor:
    """SSIM of each sample with a Gaussian window in as many dimensions as the image has.

    It equals MONAI's ``SSIMMetric``, and works axis by axis, which is several times faster in three dimensions.

    >>> from monai_adversarial.metrics.structural_similarity import structural_similarity
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
    # One by one: convolutions of a batch round otherwise than those of its samples, and sign steps follow the rounding.
    pairs = zip(changed.split(1), clean.split(1), strict=True)
    return torch.cat([_of_one(first, second, window_size) for first, second in pairs])


def _of_one(changed: torch.Tensor, clean: torch.Tensor, window_size: int) -> torch.Tensor:
    """SSIM of a batch of one."""
    dimensions = clean.ndim - 2
    size = min(window_size, *clean.shape[2:])
    size -= (size + 1) % 2
    place = torch.arange(size, dtype=changed.dtype, device=changed.device) - size // 2
    kernel = torch.exp(-0.5 * (place / SIGMA).square())
    kernel = kernel / kernel.sum()
    inside = tuple(slice(size // 2, length - size // 2) for length in clean.shape[2:])

    def local_mean(values: torch.Tensor) -> torch.Tensor:
        # One axis after the other: a window of 7 voxels takes 21 products instead of 343.
        return separable_filtering(values, [kernel] * dimensions)[(slice(None), slice(None), *inside)]

    # Half precision would round the small differences of local variances.
    with torch.autocast(changed.device.type, enabled=False):
        first, second = local_mean(changed), local_mean(clean)
        variance = local_mean(changed.square() + clean.square()) - first.square() - second.square()
        covariance = local_mean(changed * clean) - first * second
        brightness = (2 * first * second + C1) / (first.square() + second.square() + C1)
        similar = brightness * (2 * covariance + C2) / (variance + C2)
        return similar.flatten(1).mean(dim=1)
