# SPDX-License-Identifier: Apache-2.0
"""Goals in ml: an organ grows or shrinks, a ratio of volumes crosses the threshold of a decision."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Parts, Progress
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.overlap_counts import overlap_counts
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.utils.validation import check_count

__all__ = ["OrganVolume", "ThresholdCrossing"]


class _Volumes(AdditiveObjective):
    """A function of each class's volume: of probabilities for the gradient, of the decision for the score."""

    directed = True
    allows_moving_anatomy = False

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """The clean prediction as the reference: a search in windows begins with its volumes."""
        segmentation = clean.prediction
        if target.activation == "sigmoid":
            made = Target(target.classes, soft=segmentation, activation="sigmoid")
        else:
            made = Target(target.classes, index=segmentation[:, 0])
        return made.with_voxels_of(target)

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        """Sums of the probabilities and voxels of the decision, each (batch, class)."""
        probabilities = logits.sigmoid() if target.activation == "sigmoid" else logits.softmax(dim=1)
        region = target.region(logits.dtype)
        if region is not None:
            probabilities = probabilities * region.unsqueeze(1)
        return probabilities.flatten(2).sum(dim=2), self._voxels(hard_prediction(logits, target.activation), target)

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        """Organs as large as in the clean prediction."""
        sums = target.reference_sums(dtype)
        return sums, sums.double()

    @staticmethod
    def _voxels(prediction: torch.Tensor, target: Target) -> torch.Tensor:
        return overlap_counts(prediction, target)[1]


def _check_class(name: str, number: int, target: Target) -> None:
    lowest = 1 if target.activation == "softmax" else 0
    if not lowest <= number < target.classes:
        raise ValueError(f"{name} must be one of the network's organs {lowest} to {target.classes - 1}, got {number}.")


class OrganVolume(_Volumes):
    """The network's volume of an organ or lesion grows or shrinks by a number of ml.

    The gradient is that of the soft volume (sum of the organ's probability times the size of a voxel); points are
    compared by the volume of the decision. It is a success where the decision's volume differs from that of the clean
    prediction by at least ``change`` in the wanted direction. The attack is not ``targeted``: its label, if one is
    given, is the truth.

    Args:
        organ: class, or channel of a sigmoid network.
        change: ml, above 0 to grow and below 0 to shrink.

    Raises:
        ValueError: for a change of 0, an organ that the network does not have, an image without a voxel size, and a
            shrinkage by more than the organ has.

    Example:
        >>> from monai_adversarial.attacks import PGD, OrganVolume
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> result = PGD(10, units="HU", objective=OrganVolume(3, 5.0))(model, image, label)
        >>> bool(result.success)
        True

    Source: ours.
    """

    def __init__(self, organ: int, change: float) -> None:
        self.organ = check_count("organ", organ, minimum=0)
        self.change = float(change)
        if not math.isfinite(self.change) or self.change == 0:
            raise ValueError(f"change must be a finite number of ml other than 0, got {change!r}.")

    @property
    def success_rule(self) -> str:  # type: ignore[override]
        """The goal in words."""
        return f"predicted volume of organ {self.organ} changed by at least {self.change:+g} ml"

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """Ml of a voxel and the clean volume of each sample."""
        _check_class("organ", self.organ, target)
        made = super().prepare(target, clean)
        voxel = clean.voxel_ml("OrganVolume").double()
        volume = self._voxels(clean.prediction, made)[:, self.organ] * voxel
        short = [n for n, ml in enumerate(volume.tolist()) if ml + self.change < 0]
        if short:
            raise ValueError(
                f"change {self.change:g} ml is more than the {float(volume[short[0]]):.3g} ml of organ {self.organ} in "
                f"the clean prediction of sample {short[0]}."
            )
        return made.with_numbers(voxel_ml=voxel, clean_ml=volume)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """Soft and hard change of the volume as shares of the wanted one."""
        known = target.numbers
        soft, hard = (part[:, self.organ] * known["voxel_ml"].to(part) for part in parts)
        value, rank = ((ml - known["clean_ml"].to(ml)) / self.change for ml in (soft, hard))
        return value, rank.to(value.dtype)

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor:
        """Whether the decision's volume has changed that far."""
        known = target.numbers
        change = self._voxels(prediction, target)[:, self.organ] * known["voxel_ml"] - known["clean_ml"]
        return change / self.change >= 1 - 1e-6


class ThresholdCrossing(_Volumes):
    """A ratio of predicted volumes crosses the threshold of a decision, from whichever side it is on.

    The ratio is a sum of volumes over another one. Tumor burden of the liver: ``{lesion: 1}`` over
    ``{liver: 1, lesion: 1}``. An ejection fraction from the volumes of two phases: ``{filled: 1, emptied: -1}`` over
    ``{filled: 1}``. A ratio at or above the threshold is one decision, below it the other. It is a success where the
    decision of the hard segmentation has changed. The attack is not ``targeted``: its label, if one is given, is the
    truth.

    Args:
        numerator: class (with sigmoid: channel) to factor of its volume.
        denominator: the same, of what the ratio is a share of.
        threshold: of the ratio.

    Raises:
        ValueError: for factors that are no finite numbers, a class that the network does not have, and a clean
            prediction whose denominator is not above 0.

    Example:
        >>> from monai_adversarial.attacks import PGD, ThresholdCrossing
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> burden = ThresholdCrossing({3: 1}, {2: 1, 3: 1}, threshold=0.15)
        >>> bool(PGD(10, units="HU", objective=burden)(model, image, label).success)
        True

    Source: ours.
    """

    def __init__(self, numerator: Mapping[int, float], denominator: Mapping[int, float], threshold: float) -> None:
        self.numerator = _factors("numerator", numerator)
        self.denominator = _factors("denominator", denominator)
        self.threshold = float(threshold)
        if not math.isfinite(self.threshold):
            raise ValueError(f"threshold must be a finite number, got {threshold!r}.")

    @property
    def success_rule(self) -> str:  # type: ignore[override]
        """The goal in words."""
        return f"ratio of predicted volumes on the other side of {self.threshold:g}"

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """The side on which each sample is, and where it shall go: +1 is up."""
        for name, factors in (("numerator", self.numerator), ("denominator", self.denominator)):
            for number in factors:
                _check_class(name, number, target)
        made = super().prepare(target, clean)
        ratio = self._ratio(self._voxels(clean.prediction, made))
        empty = ratio.isnan().nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"denominator must be above 0 in the clean prediction, but it is not in sample {empty[0]}: there is no "
                "ratio to change."
            )
        return made.with_numbers(toward=torch.where(ratio >= self.threshold, -1.0, 1.0).to(ratio))

    def _ratio(self, volumes: torch.Tensor) -> torch.Tensor:
        """Ratio of each sample, (batch,), NaN where the denominator is not above 0."""
        above, below = (
            sum((volumes[:, number] * factor for number, factor in factors.items()), torch.zeros_like(volumes[:, 0]))
            for factors in (self.numerator, self.denominator)
        )
        return torch.where(below > 0, above / torch.where(below > 0, below, 1.0), torch.nan)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """How far beyond the threshold the ratio is; a sample without a ratio is the worst of all points."""
        toward = target.numbers["toward"]
        value, rank = (
            toward.to(part) * (self._ratio(part) - self.threshold).nan_to_num(0.0, 0.0, 0.0) for part in parts
        )
        lost = self._ratio(parts[1]).isnan()
        return value, torch.where(lost, torch.finfo(value.dtype).min, rank.to(value.dtype))

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor:
        """Whether the decision has changed; not where there is no ratio any more."""
        ratio, toward = self._ratio(self._voxels(prediction, target)), target.numbers["toward"]
        return torch.where(toward > 0, ratio >= self.threshold, ratio < self.threshold) & ~ratio.isnan()


def _factors(name: str, given: Mapping[int, float]) -> dict[int, float]:
    if not isinstance(given, Mapping) or not given:
        raise ValueError(f"{name} must map classes to factors, such as {{3: 1}}, got {given!r}.")
    made = {check_count(name, number, minimum=0): float(factor) for number, factor in given.items()}
    if not all(map(math.isfinite, made.values())):
        raise ValueError(f"{name} must hold finite factors, got {dict(given)}.")
    return made
