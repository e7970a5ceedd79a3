# SPDX-License-Identifier: Apache-2.0
"""The voxels of each class that are easiest to change: a score falls before all of them are wrong."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.softmax_statistics import class_sums
from monai_adversarial.attacks.objectives.target import Target

__all__ = ["easiest", "groups_of"]

#: halvings of the range of values in which a class's threshold is looked for
HALVINGS = 20


def groups_of(target: Target) -> tuple[torch.Tensor, torch.Tensor, int]:
    """The group of each element, the groups that count, and how many there are.

    With softmax a group is a class of the reference, and all but the background count (or those that the target
    chooses); with sigmoid the foreground of each channel.

    Returns:
        group numbers (batch, groups or 1, spatial...) int64, with one more number for elements that do not count;
        weights of the elements, the same shape; the number of groups.
    """
    if target.activation == "sigmoid":
        target = target.only_chosen()
        inside = target.one_hot(torch.float32) > 0.5
        numbers = torch.arange(target.classes, device=inside.device).view(1, -1, *[1] * (inside.ndim - 2))
        groups = torch.where(inside, numbers, target.classes)
    else:
        index = target.one_hot().max(dim=1).indices if target.index is None else target.index.long()
        counted = [number for number in target.chosen or range(target.classes) if number > 0 or target.chosen]
        known = torch.zeros(target.classes, dtype=torch.bool, device=index.device)
        known[counted] = True
        groups = torch.where(known[index], index, target.classes).unsqueeze(1)
    weight = torch.ones_like(groups, dtype=torch.float32)
    region = target.region(torch.float32)
    if region is not None:
        weight = weight * (region.unsqueeze(1) > 0)
    return groups, weight, target.classes


def easiest(values: torch.Tensor, groups: torch.Tensor, weight: torch.Tensor, count: int, share: float) -> torch.Tensor:
    """Of each group about the share of the elements with the largest values: weights of 0 or 1, like ``values``.

    >>> import torch
    >>> from monai_adversarial.attacks.objectives.easiest import easiest
    >>> values, group = torch.tensor([[[4.0, 1.0, 3.0, 2.0]]]), torch.tensor([[[0, 0, 0, 1]]])
    >>> easiest(values, group, torch.ones_like(values), 1, 0.5)
    tensor([[[1., 0., 1., 0.]]])

    Args:
        values: (batch, groups or 1, spatial...), for example margins.
        groups: see :func:`groups_of`; elements of group ``count`` are left out.
        weight: 0 for elements that do not count, else 1.
        count: number of groups.
        share: from 0 to 1; of a group with elements at least one is chosen.
    """
    values, flat = values.detach().flatten(1), groups.flatten(1)
    inside = weight.flatten(1) * (flat < count)
    if share >= 1:
        return inside.view_as(weight).to(values.dtype)
    wanted = share * class_sums(inside, flat, count + 1)
    low = values.amin(dim=1, keepdim=True).expand_as(wanted)
    high = values.amax(dim=1, keepdim=True).expand_as(wanted)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = class_sums(inside * (values >= middle.gather(1, flat)), flat, count + 1)
        enough = found >= wanted
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return (inside * (values >= low.gather(1, flat))).view_as(weight).to(values.dtype)
