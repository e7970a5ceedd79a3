# SPDX-License-Identifier: Apache-2.0
"""What the first votes decide: which class, or group of classes, is tested at each voxel, and which voxels matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from monai_adversarial.inferers.gaussian_votes import winner
from monai_adversarial.metrics.class_hierarchy import ClassHierarchy
from monai_adversarial.utils.plain import as_plain

__all__ = ["check_focus", "focus_mask", "selected_groups"]


def check_focus(focus: Any) -> str | Callable[[torch.Tensor], torch.Tensor] | None:
    """Return ``focus`` if it is None, ``"organs"`` or can be called, else raise ValueError."""
    if focus is None or focus == "organs" or callable(focus):
        return focus
    raise ValueError(f"focus must be 'organs', a callable of the first votes, or None, got {focus!r}.")


def focus_mask(
    focus: str | Callable[[torch.Tensor], torch.Tensor], counts: torch.Tensor, activation: str, margin: int
) -> torch.Tensor:
    """Voxels that matter, boolean (batch, 1, spatial...).

    Args:
        focus: from :func:`check_focus`, not None.
        counts: votes (batch, class, spatial...) of the copies that pick the class.
        activation: ``"softmax"`` or ``"sigmoid"``.
        margin: voxels by which the mask is widened along each axis.

    Raises:
        ValueError: for a mask of another shape.
    """
    if callable(focus):
        found = focus(counts)
        expected = (counts.shape[0], 1, *counts.shape[2:])
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != expected:
            got = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(f"focus must return a mask of shape {expected}, got {got}.")
        mask = as_plain(found).to(counts.device) > 0
    else:
        organs = counts if activation == "sigmoid" else counts[:, 1:]
        mask = (organs > 0).any(dim=1, keepdim=True)
    if margin:
        pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[mask.ndim - 2]
        mask = pool(mask.float(), 2 * margin + 1, stride=1, padding=margin) > 0
    return mask


def selected_groups(
    counts: torch.Tensor, copies: int, activation: str, hierarchy: ClassHierarchy | None
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The class that is tested at each voxel, and the group of each level that it lies in.

    With a hierarchy the choice goes from coarse to fine: the group with most votes, then the best of its members. So
    two kidneys that share the votes win against a background that has fewer than both.

    Args:
        counts: see :func:`focus_mask`.
        copies: how many copies voted.
        activation: ``"softmax"`` or ``"sigmoid"``.
        hierarchy: None for the classes alone.

    Returns:
        For each level, finest first, the groups (int16, as ``winner`` gives classes) and the group of each class.
    """
    if hierarchy is None:
        classes = max(counts.shape[1], 2)
        return [winner(counts, copies, activation)], [torch.arange(classes)]
    groups: list[torch.Tensor] = []
    for level in reversed(range(len(hierarchy))):
        lookup = hierarchy.groups(level).to(counts.device)
        shape = (counts.shape[0], len(hierarchy.names(level)), *counts.shape[2:])
        votes = torch.zeros(shape, dtype=counts.dtype, device=counts.device).index_add_(1, lookup, counts)
        if groups:
            parents = hierarchy.parents(level).to(groups[0]).view(1, -1, *[1] * (counts.ndim - 2))
            votes = torch.where(parents == groups[0], votes, -1)
        groups.insert(0, winner(votes, copies, activation))
    return groups, [hierarchy.groups(level) for level in range(len(hierarchy))]
