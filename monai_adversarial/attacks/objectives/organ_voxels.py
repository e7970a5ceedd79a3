# SPDX-License-Identifier: Apache-2.0
"""Goals at some voxels: an organ is erased, one is created, or its boundary moves by mm."""

from __future__ import annotations

import math
from typing import Any

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Parts, Progress
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.attacks.targets.shapes import distance_outside
from monai_adversarial.metrics.dice import class_map_dtype
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.slabs import count_true
from monai_adversarial.utils.validation import check_count, check_fraction, check_positive

__all__ = ["BoundaryShift", "CreateOrgan", "EraseOrgan"]


def _organ_mask(prediction: torch.Tensor, organ: int, activation: str) -> torch.Tensor:
    """Boolean (batch, 1, spatial...)."""
    return prediction[:, organ : organ + 1] > 0 if activation == "sigmoid" else prediction == organ


class _OrganVoxels(AdditiveObjective):
    """Mean margin of an organ's logit over some voxels, toward the organ or away from it.

    The margin of a voxel is the highest logit of the other classes minus that of the organ (with sigmoid: the negative
    logit). A voxel that is as wanted by ``confidence`` pulls no more. Points are compared by the share of the voxels
    that are as wanted.

    Args:
        organ: class, or channel of a sigmoid network.
        confidence: in logits.
    """

    comparable = False
    directed = True
    allows_moving_anatomy = False
    #: the voxels shall be of the organ
    toward = True

    def __init__(self, organ: int, confidence: float) -> None:
        self.organ = check_count("organ", organ, minimum=0)
        self.confidence = check_positive("confidence", confidence, allow_zero=True)

    def _at(self, voxels: torch.Tensor, target: Target, clean: CleanBatch) -> Target:
        """The organ as the reference of some voxels, boolean (batch, 1, spatial...)."""
        region = target.region(torch.float32)
        counted = voxels if region is None else voxels & (region > 0).unsqueeze(1)
        empty = (~counted.flatten(1).any(dim=1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"{type(self).__name__} must have a voxel to change, but sample {empty[0]} has none.")
        clean_voxels = count_true(_organ_mask(clean.prediction, self.organ, clean.activation)).double()
        shape, device = target.voxel_shape, target.device
        made: Target
        if target.activation == "sigmoid":
            mask = torch.zeros(target.classes, dtype=torch.bool, device=device)
            mask[self.organ] = True
            soft = mask.to(torch.uint8).view(1, -1, *[1] * (len(shape) - 1))
            soft = soft.expand(shape[0], -1, *shape[1:])
            made = Target(target.classes, soft=soft, class_mask=mask, activation="sigmoid")
        else:
            index = torch.full(shape, self.organ, dtype=class_map_dtype(target.classes), device=device)
            made = Target(target.classes, index=index)
        return made.with_voxels_of(target, counted[:, 0]).with_numbers(clean_voxels=clean_voxels)

    def _check_organ(self, target: Target) -> None:
        lowest = 1 if target.activation == "softmax" else 0
        if not lowest <= self.organ < target.classes:
            raise ValueError(
                f"organ must be one of the network's organs {lowest} to {target.classes - 1}, got {self.organ}."
            )

    def _share_of_organ(self, prediction: torch.Tensor, target: Target) -> torch.Tensor:
        """Share of the objective's voxels that are of the organ, (batch,)."""
        mask = _organ_mask(prediction, self.organ, target.activation)[:, 0]
        weight = target.region(torch.float64)
        assert weight is not None
        return (mask * weight).flatten(1).sum(dim=1) / weight.flatten(1).sum(dim=1)

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        comparison = compare(logits, target)
        if self.toward:
            elements = -comparison.margin(-self.confidence, math.inf)
            done = comparison.correct()
        else:
            elements = comparison.margin(-math.inf, self.confidence)
            done = ~comparison.correct()
        return comparison.average(elements), comparison.average(done.to(logits.dtype)).detach()

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        """Zeros: the mean is linear in its parts."""
        zero = torch.zeros(target.voxel_shape[0], dtype=dtype, device=target.device)
        return zero, zero

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean margin, and the share of the voxels that are as wanted."""
        return parts[0], parts[1]


class EraseOrgan(_OrganVoxels):
    """The network no longer finds an organ or a lesion.

    The margin is pushed at all voxels that are the organ's or nearly so: the organ shall not appear elsewhere instead.
    What its voxels become is left to the network. It is a success where the whole prediction has at most ``left`` of
    the organ's clean volume. The attack is not ``targeted``: its label, if one is given, is the truth.

    Args:
        organ: class, or channel of a sigmoid network.
        left: largest share of the volume that may be left.
        confidence: margin in logits beyond which a voxel pulls no more.

    Raises:
        ValueError: for numbers out of range, and where the clean prediction of a sample does not have the organ.

    Example:
        >>> from monai_adversarial.attacks import PGD, EraseOrgan
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> bool(PGD(25, units="HU", objective=EraseOrgan(3))(model, image, label).success)
        True

    Source: ours.
    """

    toward = False

    def __init__(self, organ: int, left: float = 0.05, confidence: float = 1.0) -> None:
        super().__init__(organ, confidence)
        self.left = check_fraction("left", left)

    @property
    def success_rule(self) -> str:  # type: ignore[override]
        """The goal in words."""
        return f"at most {self.left:.0%} of the predicted volume of organ {self.organ} left"

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """All voxels count."""
        self._check_organ(target)
        mask = _organ_mask(clean.prediction, self.organ, clean.activation)
        missing = (~mask.flatten(1).any(dim=1)).nonzero().flatten().tolist()
        if missing:
            raise ValueError(
                f"organ {self.organ} is not in the clean prediction of sample {missing[0]}: there is nothing to erase."
            )
        return self._at(torch.ones_like(mask), target, clean)

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor:
        """Whether at most that much of the organ is left anywhere."""
        found = count_true(_organ_mask(prediction, self.organ, target.activation)).double()
        return found <= self.left * target.numbers["clean_voxels"]


class CreateOrgan(_OrganVoxels):
    """The network finds an organ or a lesion inside a given mask.

    It is a success where at least ``share`` of the mask is predicted as the organ. The attack is not ``targeted``: its
    label, if one is given, is the truth.

    Args:
        organ: class, or channel of a sigmoid network.
        inside: where, boolean or 0 and 1, (1 or batch, 1, spatial...) on the image's grid: tensor, ``MetaTensor`` or
            array. None: the call's ``objective_region``.
        share: least share of the mask.
        confidence: margin in logits beyond which a voxel pulls no more.

    Raises:
        TypeError, ValueError: for a mask that does not fit or is empty, numbers out of range, and a clean prediction
            that already has the organ in that share of the mask.

    Example:
        >>> import torch
        >>> from monai_adversarial.attacks import PGD, CreateOrgan
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> inside = torch.zeros(label.shape, dtype=torch.bool)
        >>> inside[..., 19:23, 6:10, 14:18] = True
        >>> bool(PGD(25, units="HU", objective=CreateOrgan(3, inside, share=0.5))(model, image, label).success)
        True

    Source: ours.
    """

    def __init__(self, organ: int, inside: Any = None, share: float = 0.5, confidence: float = 1.0) -> None:
        super().__init__(organ, confidence)
        self.inside = None if inside is None else as_plain(as_tensor("inside", inside))
        self.share = check_fraction("share", share)

    @property
    def success_rule(self) -> str:  # type: ignore[override]
        """The goal in words."""
        return f"at least {self.share:.0%} of the mask predicted as organ {self.organ}"

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """The voxels of the mask."""
        self._check_organ(target)
        if self.inside is None and target.weight is None:
            raise ValueError(
                "inside= or objective_region= must say where CreateOrgan shall create the organ, got neither."
            )
        expected = (target.voxel_shape[0], 1, *target.voxel_shape[1:])
        mask = torch.ones(expected, dtype=torch.bool, device=target.device)
        if self.inside is not None:
            if self.inside.shape[1:] != expected[1:] or self.inside.shape[0] not in (1, expected[0]):
                raise ValueError(f"inside must have shape {expected} to fit the image, got {tuple(self.inside.shape)}.")
            mask &= self.inside.to(target.device) > 0
        made = self._at(mask, target, clean)
        there = self._share_of_organ(clean.prediction, made).tolist()
        for sample, share in enumerate(there):
            if share >= self.share:
                raise ValueError(
                    f"share {self.share:g} of the mask is predicted as organ {self.organ} without an attack in sample "
                    f"{sample} ({share:.3g}): choose another mask or a higher share."
                )
        return made

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor:
        """Whether that share of the mask is predicted as the organ."""
        return self._share_of_organ(prediction, target) >= self.share


class BoundaryShift(_OrganVoxels):
    """The boundary of an organ moves outward or inward by mm.

    The voxels that count are the rim between the boundary of the clean prediction and the wanted one: those whose
    center is at most ``distance`` from a voxel on the other side. It is a success where at least ``share`` of the rim
    has changed sides. The attack is not ``targeted``: its label, if one is given, is the truth. For a wanted
    segmentation of all organs see ``attacks.targets.dilated_organ``.

    Args:
        organ: class, or channel of a sigmoid network.
        distance: mm, above 0 outward and below 0 inward.
        share: least share of the rim.
        confidence: margin in logits beyond which a voxel pulls no more.

    Raises:
        ValueError: for numbers out of range, an image without a voxel size, and a sample without the organ or whose rim
            has no voxel.

    Example:
        >>> from monai_adversarial.attacks import PGD, BoundaryShift
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> bool(PGD(25, units="HU", objective=BoundaryShift(2, -3.0))(model, image, label).success)
        True

    Source: ours.
    """

    def __init__(self, organ: int, distance: float, share: float = 0.5, confidence: float = 1.0) -> None:
        super().__init__(organ, confidence)
        self.distance, self.share = float(distance), check_fraction("share", share)
        if not math.isfinite(self.distance) or self.distance == 0:
            raise ValueError(f"distance must be a finite number of mm other than 0, got {distance!r}.")
        self.toward = self.distance > 0

    @property
    def success_rule(self) -> str:  # type: ignore[override]
        """The goal in words."""
        return f"boundary of organ {self.organ} moved by {self.distance:+g} mm in at least {self.share:.0%} of the rim"

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """The rim of each sample."""
        self._check_organ(target)
        steps = clean.mm("BoundaryShift").tolist()
        organ = _organ_mask(clean.prediction, self.organ, clean.activation)
        rim = torch.zeros_like(organ)
        for sample, mask in enumerate(organ[:, 0]):
            if not bool(mask.any()):
                raise ValueError(
                    f"organ {self.organ} is not in the clean prediction of sample {sample}: it has no boundary."
                )
            inside = mask if self.toward else ~mask
            if not bool(inside.any()):
                raise ValueError(f"organ {self.organ} fills sample {sample}: it has no boundary inside the image.")
            distance = distance_outside(inside, steps[sample]).to(mask.device)
            rim[sample, 0] = (distance <= abs(self.distance)) & ~inside
        return self._at(rim, target, clean)

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor:
        """Whether that share of the rim has changed sides."""
        there = self._share_of_organ(prediction, target)
        return (there if self.toward else 1 - there) >= self.share
