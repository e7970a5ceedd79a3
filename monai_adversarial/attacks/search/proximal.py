# SPDX-License-Identifier: Apache-2.0
"""Proximal steps of the norms: a nearby noise of smaller norm, inside a box."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.norms import as_voxels
from monai_adversarial.attacks.search.alma import nearest_with_small_largest

__all__ = ["nearest_with_small_norm"]

HALVINGS = 40
_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def nearest_with_small_norm(
    noise: torch.Tensor,
    weight: torch.Tensor,
    metric: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    norm: str,
    block: int = 1,
) -> torch.Tensor:
    """Minimizes ``weight * norm(z) + sum of metric * (z - noise)^2 / 2`` over ``z`` between ``low`` and ``high``.

    Exact for L-infinity, L1 and L0, and for L2 where the box does not matter: elsewhere its minimum without a box is
    clipped.

    >>> import torch
    >>> from monai_adversarial.attacks.search.proximal import nearest_with_small_norm
    >>> noise, wide = torch.tensor([[[3.0, 0.5]]]), torch.full((1, 1, 2), 9.0)
    >>> given = torch.ones(1), torch.ones(1, 1, 2), -wide, wide
    >>> nearest_with_small_norm(noise, *given, "l1")
    tensor([[[2., 0.]]])
    >>> nearest_with_small_norm(noise, *given, "l0")
    tensor([[[3., 0.]]])

    Args:
        noise: (batch, channel, spatial...).
        weight: of the norm, >= 0, (batch,).
        metric: of the distance, > 0, like ``noise``.
        low: <= 0.
        high: >= 0.
        norm: ``"linf"``, ``"l2"``, ``"l1"`` or ``"l0"``, which counts blocks.
        block: voxels along each axis of a block.

    Source: Parikh and Boyd, "Proximal algorithms", 2014, section 6.5, here with a diagonal metric.
    """
    if norm == "linf":
        return nearest_with_small_largest(noise, weight, metric, low, high)
    if norm == "l1":
        noise = (noise.abs() - per_sample(weight, noise) / metric).clamp_min(0) * noise.sign()
    elif norm == "l2":
        noise = noise * _shares(noise, weight, metric)
    inside = torch.maximum(torch.minimum(noise, high), low)
    if norm != "l0":
        return inside
    # What it costs to set a voxel to zero instead; a block stays where it costs more than being counted.
    cost = (metric * (noise.square() - (noise - inside).square()) / 2).sum(dim=1, keepdim=True)
    if block > 1:
        voxels = block ** (noise.ndim - 2)
        cost = _POOLS[noise.ndim - 2](_filled(cost, block), block) * voxels
    return inside * as_voxels(cost > per_sample(weight, cost), noise, block)


def _filled(volume: torch.Tensor, block: int) -> torch.Tensor:
    """With zeros behind each axis up to a whole number of blocks."""
    missing = [-length % block for length in volume.shape[2:]]
    return F.pad(volume, [side for length in reversed(missing) for side in (0, length)])


def _shares(noise: torch.Tensor, weight: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
    """By what each voxel is multiplied: ``metric / (metric + weight / length)`` with the length of the outcome, which
    is found by halving; all zeros where the weight is too large for anything to stay."""
    flat, metrics = noise.flatten(1), metric.flatten(1)
    pulled = (flat * metrics).norm(dim=1)
    below, above = torch.zeros_like(weight), flat.norm(dim=1)
    tiny = torch.finfo(flat.dtype).tiny
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        length = (flat * metrics / (metrics + (weight / middle.clamp_min(tiny))[:, None])).norm(dim=1)
        longer = length > middle
        below, above = torch.where(longer, middle, below), torch.where(longer, above, middle)
    shares = metrics / (metrics + (weight / above.clamp_min(tiny))[:, None])
    return (shares * (pulled > weight)[:, None]).view_as(noise)
