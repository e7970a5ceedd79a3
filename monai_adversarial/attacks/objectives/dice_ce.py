# SPDX-License-Identifier: Apache-2.0
"""Dice plus cross-entropy: the default."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Objective, Parts, Progress
from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.dice import Dice
from monai_adversarial.attacks.objectives.margin import Margin
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.utils.validation import check_positive

__all__ = ["DiceCE"]


class DiceCE(AdditiveObjective):
    """Weighted sum of :class:`Dice` and the mean cross-entropy, from one softmax.

    Equal to ``monai.losses.DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)`` of each sample
    alone, where the sample's reference contains all classes.

    >>> import torch
    >>> from monai.losses import DiceCELoss
    >>> from monai_adversarial.attacks.objectives import DiceCE, Progress, Target
    >>> logits, label = torch.randn(1, 3, 4, 4), torch.arange(16).view(1, 1, 4, 4) % 3
    >>> value = DiceCE().value(logits, Target.from_label(label, classes=3), Progress(0, 1))
    >>> monai = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    >>> torch.allclose(value, monai(logits, label))
    True

    Args:
        dice_weight: factor of Dice, >= 0.
        cross_entropy_weight: factor of the cross-entropy, >= 0.
        include_background, skip_absent, smooth: see :class:`Dice`; the cross-entropy counts the background always.

    Raises:
        ValueError: for negative weights.
    """

    def __init__(
        self,
        dice_weight: float = 1.0,
        cross_entropy_weight: float = 1.0,
        include_background: bool = False,
        skip_absent: bool = True,
        smooth: float = 1e-5,
    ) -> None:
        self.dice = Dice(include_background, skip_absent, smooth)
        self.dice_weight = check_positive("dice_weight", dice_weight, allow_zero=True)
        self.cross_entropy_weight = check_positive("cross_entropy_weight", cross_entropy_weight, allow_zero=True)

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        comparison = compare(logits, target, totals=True)
        return (comparison.average(comparison.cross_entropy()), *self.dice.parts_of(comparison))

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        """Organs as large as they are, where they are."""
        sums = self.dice.parts_of_reference(target, dtype)
        return (torch.zeros_like(sums[0][:, 0]), *sums)

    def for_classifier(self) -> Objective:
        """The margin, as a confident network's cross-entropy has hardly a gradient; docs/classification.md."""
        return Margin(math.inf)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted sum of both."""
        cross_entropy, *sums = parts
        value = self.dice_weight * self.dice.combine(tuple(sums), target)[0] + self.cross_entropy_weight * cross_entropy
        return value, value
