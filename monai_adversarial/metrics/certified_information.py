# SPDX-License-Identifier: Apache-2.0
"""How much a certificate with fallback levels says: certified information gain, and the share of voxels per level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypedDict

import torch

from monai_adversarial.metrics.certified_dice import certified_maps
from monai_adversarial.metrics.certified_metric import CertifiedMetric
from monai_adversarial.metrics.class_hierarchy import ClassHierarchy
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_instance

__all__ = ["CertifiedInformation", "CertifiedInformationMetric", "certified_information"]


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


class CertifiedInformationMetric(CertifiedMetric):
    """:func:`certified_information` of cases that come batch by batch, from all processes.

    Called with certificates of this hierarchy, or with the certified groups of each level as channels, finest first,
    (batch, level, spatial...), and with labels (batch, 1, spatial...). ``aggregate`` gives for ``all`` voxels and for
    those of each class ``{class}_information_gain``, ``{class}_right_{level}`` with 0 for the classes themselves,
    ``{class}_wrong`` and ``{class}_abstained``: means over the cases that have the class.

    >>> import torch
    >>> from monai_adversarial.metrics import CertifiedInformationMetric, ClassHierarchy
    >>> hierarchy = ClassHierarchy(["background", "left", "right", "liver"], [{"kidney": ["left", "right"]}])
    >>> metric = CertifiedInformationMetric(hierarchy)
    >>> label = torch.tensor([[[0, 1, 1, 2]]])
    >>> _ = metric(torch.tensor([[[0, 1, -1, -1], [0, 1, 1, -1]]]), label)  # classes, then groups
    >>> found = metric.aggregate()
    >>> found["all_information_gain"], found["left_right_0"], found["left_right_1"], found["right_abstained"]
    (0.625, 0.5, 0.5, 1.0)

    Args:
        hierarchy: of the classes.

    Raises:
        ValueError: as :func:`certified_information`, for a certificate of another hierarchy, and for no data.

    Source: as :func:`certified_information`.

    Survey entry: X16 (adapted).
    """

    def __init__(self, hierarchy: ClassHierarchy) -> None:
        super().__init__()
        self.hierarchy = check_instance("hierarchy", hierarchy, ClassHierarchy, "ClassHierarchy(class_names, levels)")
        self.names = ("all", *hierarchy.names(0))
        numbers = ("information_gain", *(f"right_{level}" for level in range(len(hierarchy))), "wrong", "abstained")
        self.columns = tuple(f"{name}_{number}" for name in self.names for number in numbers)

    def maps(self, certified: Any) -> Any:
        """The certified groups of each level as channels."""
        if not hasattr(certified, "at_level"):
            return certified
        if repr(certified.hierarchy) != repr(self.hierarchy):
            raise ValueError(f"y_pred must be certified with {self.hierarchy}, got {certified.hierarchy}.")
        return torch.cat([as_plain(certified.at_level(level)) for level in range(len(self.hierarchy))], dim=1)

    def rows(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        levels = as_plain(y_pred).split(1, dim=1) if y_pred.ndim > 2 else [as_plain(y_pred)]
        scores = certified_information(list(levels), self.label(y), self.hierarchy)
        rows = [
            [
                value
                for found in (case[name] for name in self.names)
                for value in (found["information_gain"], *found["right"], found["wrong"], found["abstained"])
            ]
            for case in scores
        ]
        return torch.tensor(rows, dtype=torch.float64)
