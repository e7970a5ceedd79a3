# SPDX-License-Identifier: Apache-2.0
"""Objectives of sums over voxels, slab by slab: temporary tensors have the size of a slab, not of all classes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Objective, Parts, Progress
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.utils.slabs import slabs

__all__ = ["add_up", "added", "value_and_rank"]

#: elements of logits from which computing softmax again is worth its memory
LARGE_LOGITS = 2**24


def added(known: Parts | None, parts: Parts) -> Parts:
    """Sums of some voxels and those of some more."""
    return parts if known is None else tuple(a + b for a, b in zip(known, parts, strict=True))


def add_up(
    objective: AdditiveObjective,
    logits: torch.Tensor,
    target: Target,
    progress: Progress,
    targeted: bool,
    slopes: Parts | None = None,
    out: torch.Tensor | None = None,
) -> tuple[Parts, torch.Tensor | None]:
    """The sums of an objective, and the gradient of their linear combination.

    Args:
        objective: what is maximized.
        logits: (batch, class, spatial...) in any floating point type; no gradient flows into them.
        target: the reference, a part of a volume.
        progress: position in the search.
        targeted: see ``Objective.value``.
        slopes: factor of each sum; None for the sums alone.
        out: where the gradient is written; None for a new tensor.

    Returns:
        the sums, and the gradient with respect to ``logits`` in their type (None without ``slopes``).
    """
    total: Parts | None = None
    gradient = None if slopes is None else torch.empty_like(logits) if out is None else out
    wide = torch.promote_types(logits.dtype, torch.float32)
    for where in slabs(logits.shape[2:], logits.shape[0] * logits.shape[1]):
        box = (slice(None), slice(None), *where)
        piece = logits[box].detach().to(wide)
        with torch.set_grad_enabled(gradient is not None):
            if gradient is not None:
                piece.requires_grad_()
            parts = objective.parts(piece, target.part(where=where), progress, targeted)
            if gradient is not None:
                assert slopes is not None
                weighted = [(p * s).sum() for p, s in zip(parts, slopes, strict=True) if p.requires_grad]
                gradient[box] = torch.autograd.grad(torch.stack(weighted).sum(), piece)[0]
        total = added(total, tuple(part.detach() for part in parts))
    assert total is not None
    return total, gradient


class _SlabBySlab(torch.autograd.Function):
    """Value and rank of whole logits; softmax is computed again in the backward pass instead of kept."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, objective: AdditiveObjective, target: Target, progress: Progress, targeted: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts, _ = add_up(objective, logits, target, progress, targeted)
        value, rank = objective.combine(parts, target.part())
        ctx.save_for_backward(logits)
        ctx.known = (objective, target, progress, targeted, objective.slopes(parts, target.part()))
        rank = rank.clone() if rank is value else rank
        ctx.mark_non_differentiable(rank)
        return value, rank

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor, _: Any) -> Any:
        (logits,) = ctx.saved_tensors
        objective, target, progress, targeted, slopes = ctx.known
        scaled = tuple(slope * gradient.view(-1, *[1] * (slope.ndim - 1)) for slope in slopes)
        return add_up(objective, logits, target, progress, targeted, scaled)[1], None, None, None, None


def value_and_rank(
    objective: Objective, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """``objective.value_and_rank``, slab by slab where logits are large and nothing else forbids it."""
    moving = target.soft is not None and target.soft.requires_grad
    large = math.prod(logits.shape) > LARGE_LOGITS
    if not large or moving or not isinstance(objective, AdditiveObjective):
        return objective.value_and_rank(logits, target, progress, targeted)
    return _SlabBySlab.apply(logits, objective, target, progress, targeted)
