# SPDX-License-Identifier: Apache-2.0
"""Soft Dice loss: the measure by which segmentations are judged, made differentiable."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Objective, Parts, Progress
from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.comparison import Comparison
from monai_adversarial.attacks.objectives.margin import Margin
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.utils.validation import check_positive

__all__ = ["Dice"]


class Dice(AdditiveObjective):
    """Mean over classes of 1 - (2 * intersection + s) / (predicted + reference + s), from probabilities.

    Classes that the reference of a sample does not contain are left out of its mean, unless that leaves none. The
    target's class mask restricts the mean further; its region weights all sums.

    >>> import torch
    >>> from monai.losses import DiceLoss
    >>> from monai_adversarial.attacks.objectives import Dice, Progress, Target
    >>> logits, label = torch.randn(1, 3, 4, 4), torch.arange(16).view(1, 1, 4, 4) % 3
    >>> value = Dice().value(logits, Target.from_label(label, classes=3), Progress(0, 1))
    >>> monai = DiceLoss(include_background=False, to_onehot_y=True, softmax=True)
    >>> torch.allclose(value, monai(logits, label))
    True

    Args:
        include_background: count class 0 too. Only for softmax: independent channels have no background channel.
        skip_absent: leave out absent classes; False averages all classes as ``monai.losses.DiceLoss`` does.
        smooth: s, added to both sides of the fraction.
        sharpness: k, by which the logits are multiplied first. Above 1 the soft Dice comes closer to the Dice of the
            decision itself, and voxels that are decided for good pull less (temperature scaling; as an attack's
            objective our own).

    Raises:
        ValueError: for ``smooth`` or ``sharpness`` that is not positive; in ``value`` where the target's class mask
            leaves only the excluded background.
    """

    def __init__(
        self,
        include_background: bool = False,
        skip_absent: bool = True,
        smooth: float = 1e-5,
        sharpness: float = 1.0,
    ) -> None:
        self.include_background = include_background
        self.skip_absent = skip_absent
        self.smooth = check_positive("smooth", smooth)
        self.sharpness = check_positive("sharpness", sharpness)

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        sharp = logits if self.sharpness == 1 else logits * self.sharpness
        return self.parts_of(compare(sharp, target, totals=True))

    def parts_of(self, comparison: Comparison) -> Parts:
        """The sums of a comparison that was made with ``totals=True``."""
        intersection, predicted, reference = comparison.class_sums()
        # Of a part of a volume those of the reference belong to the whole, and are not added up.
        return (
            (intersection, predicted) if comparison.target.whole is not None else (intersection, predicted, reference)
        )

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        """Organs as large as they are, where they are."""
        target = target.only_chosen() if target.activation == "sigmoid" else target
        sums = target.reference_sums(dtype)
        return sums, sums

    def for_classifier(self) -> Objective:
        """The margin: of one decision there is no overlap."""
        return Margin(math.inf)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean over the classes that count."""
        if target.activation == "sigmoid":
            target = target.only_chosen()
        intersection, predicted = parts[:2]
        reference = parts[2] if len(parts) > 2 else target.reference_sums(predicted.dtype)
        losses = 1 - (2 * intersection + self.smooth) / (predicted + reference + self.smooth)
        counted = self._counted(target, losses)
        if self.skip_absent:
            present = counted * (reference > 0)
            counted = torch.where(present.any(dim=1, keepdim=True), present, counted)
        value = (losses * counted).sum(dim=1) / counted.sum(dim=1)
        return value, value

    def _counted(self, target: Target, like: torch.Tensor) -> torch.Tensor:
        """Ones for the classes of the mean, zeros for the others, (1, class)."""
        without_background = target.activation == "softmax" and not self.include_background
        classes = [n for n in target.chosen or range(target.classes) if n != 0 or not without_background]
        if not classes:
            raise ValueError(
                "the Dice objective excludes the background, and the target's class_mask selects nothing else: "
                "select other classes or use include_background=True."
            )
        return target.class_table(
            ("dice", tuple(classes), target.classes, like.dtype),
            lambda: torch.tensor([[float(n in classes) for n in range(target.classes)]]).to(like),
        )
