# SPDX-License-Identifier: Apache-2.0
"""Norms of noise and the nearest noise inside a ball: L-infinity, L2, L1, and L0 of voxels or of blocks of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["NORMS", "as_voxels", "block_sizes", "into_ball", "norm_of", "simplex_threshold"]

NORMS = ("linf", "l2", "l1", "l0")
_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def block_sizes(noise: torch.Tensor, block: int) -> torch.Tensor:
    """Largest change of each block, all channels together: (batch, 1, blocks...), of blocks of ``block`` voxels along
    each axis; the last of an axis may be smaller.

    >>> import torch
    >>> from monai_adversarial.attacks.perturbations.norms import block_sizes
    >>> block_sizes(torch.tensor([[[0.0, -3.0, 1.0]]]), 2)
    tensor([[[3., 1.]]])
    """
    sizes = noise.abs().amax(dim=1, keepdim=True)
    return sizes if block == 1 else _POOLS[noise.ndim - 2](sizes, block, stride=block, ceil_mode=True)


def as_voxels(blocks: torch.Tensor, like: torch.Tensor, block: int) -> torch.Tensor:
    """What is known of each block at each of its voxels, (batch, 1, spatial...), on the grid of ``like``."""
    if block == 1:
        return blocks
    for axis in range(2, blocks.ndim):
        blocks = blocks.repeat_interleave(block, dim=axis).narrow(axis, 0, like.shape[axis])
    return blocks


def norm_of(noise: torch.Tensor, norm: str, block: int = 1) -> torch.Tensor:
    """Norm of each sample, (batch,).

    >>> import torch
    >>> from monai_adversarial.attacks.perturbations.norms import norm_of
    >>> noise = torch.tensor([[[3.0, 0.0, -4.0]]])
    >>> [norm_of(noise, norm).item() for norm in ("linf", "l2", "l1", "l0")]
    [4.0, 5.0, 7.0, 2.0]

    Args:
        noise: (batch, channel, spatial...).
        norm: ``"linf"``, ``"l2"``, ``"l1"`` or ``"l0"``: the number of voxels, or of blocks, that change at all.
        block: voxels along each axis of a block of L0.
    """
    if norm == "l0":
        return (block_sizes(noise, block) > 0).flatten(1).sum(dim=1).to(noise.dtype)
    flat = noise.flatten(1)
    if norm == "linf":
        return flat.abs().amax(dim=1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().sum(dim=1)


def simplex_threshold(sizes: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    """By how much sizes are lowered, none below zero, so that they add up to the radius, (batch,); 0 where they do not
    exceed it.

    Source: Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient projections onto the l1-ball", 2008, figure 1.

    Args:
        sizes: >= 0, (batch, entries).
        radius: > 0, (batch,).
    """
    ordered = sizes.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - radius[:, None]
    count = torch.arange(1, sizes.shape[1] + 1, dtype=sizes.dtype, device=sizes.device)
    last = ((ordered * count > excess).sum(dim=1, keepdim=True) - 1).clamp_min(0)
    return (excess.gather(1, last) / (last + 1).to(sizes.dtype)).clamp_min(0)[:, 0]


def into_ball(noise: torch.Tensor, radius: torch.Tensor, norm: str, block: int = 1) -> torch.Tensor:
    """The nearest noise inside the ball of each sample; noise inside it stays as it is.

    Of L0 the blocks with the largest changes are kept, at most ``radius`` of them: of equal ones at the edge none.

    >>> import torch
    >>> from monai_adversarial.attacks.perturbations.norms import into_ball
    >>> into_ball(torch.tensor([[[3.0, 0.0, -4.0]]]), torch.tensor([1.0]), "l0")
    tensor([[[ 0.,  0., -4.]]])

    Args:
        noise: (batch, channel, spatial...).
        radius: >= 0, (batch,); infinite for no limit.
        norm: see :func:`norm_of`.
        block: voxels along each axis of a block of L0.
    """
    shape = (-1, *[1] * (noise.ndim - 1))
    if norm == "linf":
        edge = radius.view(shape)
        return torch.maximum(torch.minimum(noise, edge), -edge)
    tiny = torch.finfo(noise.dtype).tiny
    if norm == "l2":
        return noise * (radius / noise.flatten(1).norm(dim=1).clamp_min(tiny)).clamp_max(1.0).view(shape)
    if norm == "l1":
        sizes = noise.abs()
        lowered = simplex_threshold(sizes.flatten(1), radius).view(shape)
        return (sizes - lowered).clamp_min(0) * noise.sign()
    blocks = block_sizes(noise, block)
    flat = blocks.flatten(1)
    kept = radius.floor().clamp(0, flat.shape[1]).long()
    # The largest size that is left out: what is larger stays. One more entry, for a radius that leaves out nothing.
    ordered = F.pad(flat.sort(dim=1, descending=True).values, (0, 1), value=-1.0)
    edge = ordered.gather(1, kept[:, None]).view(-1, *[1] * (blocks.ndim - 1))
    return noise * as_voxels(blocks > edge, noise, block)
