# SPDX-License-Identifier: Apache-2.0
"""How much a certificate with fallback levels says: certified information gain, and the share of voxels per level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import torch

from monai_adversarial.metrics.certified_dice import certified_maps
from monai_adversarial.metrics.class_hierarchy import ClassHierarchy
from monai_adversarial.utils.plain import as_plain

__all__ = ["CertifiedInformation", "certified_information"]


class CertifiedInformation(TypedDict):
    """What is certified about the voxels of one class of the label, or about all.

    >>> import torch
    >>> from monai_adversarial.metrics import CertifiedInformation, ClassHierarchy, certified_information
    >>> hierarchy = ClassHierarchy(["background", "left", "right"], [{"kidney": ["left", "right"]}])
    >>> label = torch.tensor([[[0, 1, 2, 2]]])
    >>> found: CertifiedInformation = certified_information([label, label.clamp(max=1)], label, hierarchy)[0]["all"]
    >>> found["voxels"], found["information_gain"], found["abstained"]
    (4, 1.0, 0.0)

    Args:
        voxels: how many there are.
        information_gain: mean over them of 1 - log(classes in the certified group) / log(classes), 0 where it abstains
            or is wrong; NaN without voxels.
        right: share whose finest certified statement is of each level and right, finest first.
        wrong: share with a finest certified statement that is wrong.
        abstained: share without any statement.
    """

    voxels: int
    information_gain: float
    right: tuple[float, ...]
    wrong: float
    abstained: float


def certified_information(
    certified: Any, label: torch.Tensor, hierarchy: ClassHierarchy | None = None
) -> list[dict[str, CertifiedInformation]]:
    """Certified information gain and shares per level, over all voxels and those of each class of the label.

    A statement counts by what it rules out: the class itself gives 1, a group of all but few classes little, an
    abstention nothing.

    >>> import torch
    >>> from monai_adversarial.metrics import ClassHierarchy, certified_information
    >>> hierarchy = ClassHierarchy(["background", "left", "right", "liver"], [{"kidney": ["left", "right"]}])
    >>> label = torch.tensor([[[0, 1, 1, 2]]])
    >>> levels = [torch.tensor([[[0, 1, -1, -1]]]), torch.tensor([[[0, 1, 1, -1]]])]
    >>> scores = certified_information(levels, label, hierarchy)
    >>> scores[0]["all"]["information_gain"], scores[0]["left"]["right"]
    (0.625, (0.5, 0.5))

    Args:
        certified: a ``CertifiedSegmentation`` with a hierarchy, or the certified groups of each level, finest first,
            (batch, 1, spatial...) with -1 where it abstains.
        label: class map (batch, 1, spatial...).
        hierarchy: of the classes; None to take that of ``certified``.

    Returns:
        ``{"all": ..., class: ...}`` per case, in the order of the batch.

    Raises:
        ValueError: without a hierarchy, for maps as in ``certified_dice``, another number of levels, and classes that
            the hierarchy does not have.

    Source: Anani et al., "Adaptive hierarchical certification for segmentation using randomized smoothing", ICML 2024.
    Only the abstract was read: the formula is a reconstruction.

    Survey entry: X16 (adapted).
    """
    classes = hierarchy if hierarchy is not None else getattr(certified, "hierarchy", None)
    if classes is None:
        raise ValueError("hierarchy is missing: certify with one, or pass it with the groups of each level.")
    maps = [certified.at_level(level) for level in range(len(classes))] if hasattr(certified, "at_level") else certified
    if not isinstance(maps, Sequence) or len(maps) != len(classes):
        got = len(maps) if isinstance(maps, Sequence) else type(maps).__name__
        raise ValueError(f"certified must hold one map for each of the {len(classes)} levels, got {got}.")
    truth = as_plain(label)
    finest = torch.full(truth.shape, -1, dtype=torch.int64, device=truth.device)
    gain = torch.zeros(truth.shape, dtype=torch.float64, device=truth.device)
    right = torch.zeros(truth.shape, dtype=torch.bool, device=truth.device)
    for level in reversed(range(len(classes))):
        groups = certified_maps(maps[level], truth)[0].to(truth.device)
        named = groups >= 0
        finest = torch.where(named, level, finest)
        agrees = groups == classes.at_level(truth, level)
        worth = 1 - classes.sizes(level).double().log() / math.log(classes.classes)
        if named.any() and int(groups.max()) >= len(worth):
            raise ValueError(f"certified has group {int(groups.max())}, but level {level} has {len(worth)} groups.")
        found = worth.to(truth.device)[groups.clamp(min=0).long()] * agrees
        gain, right = torch.where(named, found, gain), torch.where(named, agrees, right)
    names = {"all": None} | {name: index for index, name in enumerate(classes.names(0))}
    return [
        {
            name: _scores(gain[case], right[case], finest[case], truth[case], index, len(classes))
            for name, index in names.items()
        }
        for case in range(truth.shape[0])
    ]


def _scores(
    gain: torch.Tensor, right: torch.Tensor, finest: torch.Tensor, truth: torch.Tensor, index: int | None, levels: int
) -> CertifiedInformation:
    where = torch.ones_like(right) if index is None else truth == index
    gain, right, finest = gain[where], right[where], finest[where]

    def share(mask: torch.Tensor) -> float:
        return float(mask.double().mean()) if len(mask) else math.nan

    return CertifiedInformation(
        voxels=len(gain),
        information_gain=share(gain),
        right=tuple(share(right & (finest == level)) for level in range(levels)),
        wrong=share(~right & (finest >= 0)),
        abstained=share(finest < 0),
    )
