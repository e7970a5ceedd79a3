# SPDX-License-Identifier: Apache-2.0
"""Dice of the decision itself, for searches without gradients."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Objective, Parts, Progress
from monai_adversarial.attacks.objectives.margin import Margin
from monai_adversarial.attacks.objectives.softmax_statistics import class_sums
from monai_adversarial.attacks.objectives.target import Target

__all__ = ["HardDice"]


class HardDice(AdditiveObjective):
    """1 - mean foreground Dice of the hard segmentation: the measure that scores are in, so that the candidate that is
    worst by it is the one with the lowest score.

    A class that is in neither the reference nor the prediction is left out; one that is in the prediction alone counts
    as 0, an invented organ. A sample without any class to average has the value 0. It has no gradient: for searches by
    values alone.

    >>> from monai_adversarial.attacks import PGD, HardDice, SquareAttack
    >>> from monai_adversarial.data.example import example_case
    >>> result = SquareAttack(16, "HU", queries=10, objective=HardDice())(*example_case(16))
    >>> abs(float(1 - result.objective - result.adversarial_dice)) < 1e-5
    True
    >>> PGD(16, "HU", objective=HardDice())(*example_case(16))
    Traceback (most recent call last):
    TypeError: ...

    Raises:
        TypeError: in ``value``, where a gradient is wanted.
        ValueError: in ``value``, where the target's class mask leaves only the background.
    """

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        """Voxels in both, in the prediction and in the reference, each (batch, class)."""
        if logits.requires_grad and torch.is_grad_enabled():
            raise TypeError("HardDice has no gradient: use it with a search by values alone, such as RandomSearch().")
        region = target.region(torch.float64)
        if target.activation == "sigmoid":
            if target.chosen is not None:
                logits = logits.index_select(1, target.chosen_index())
            true = target.only_chosen().one_hot() > 0.5
            found, weight = logits > 0, None if region is None else region.unsqueeze(1)
            masks = [part.double() if weight is None else part * weight for part in (found & true, found, true)]
            return tuple(mask.flatten(2).sum(dim=2) for mask in masks)
        predicted = logits.max(dim=1).indices
        reference = target.one_hot().max(dim=1).indices if target.index is None else target.index.long()
        ones = torch.ones(predicted.shape, dtype=torch.float64, device=logits.device) if region is None else region
        both = class_sums(ones * (predicted == reference), reference, target.classes)
        return both, class_sums(ones, predicted, target.classes), class_sums(ones, reference, target.classes)

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        """Organs as large as they are, where they are."""
        sums = (target.only_chosen() if target.activation == "sigmoid" else target).reference_sums(dtype)
        return sums, sums, sums

    def for_classifier(self) -> Objective:
        """The margin, whose sign is what is scored."""
        return Margin(math.inf)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """1 - the mean over the classes where Dice is defined."""
        both, predicted, reference = parts
        if target.activation == "softmax":
            counted = [number for number in target.chosen or range(target.classes) if number > 0]
            if not counted:
                raise ValueError(
                    "the HardDice objective excludes the background, and the target's class_mask selects nothing "
                    "else: select other classes."
                )
            where = target.class_table(
                ("hard_dice", tuple(counted)), lambda: torch.tensor(counted, dtype=torch.long, device=both.device)
            )
            both, predicted, reference = (part.index_select(1, where) for part in parts)
        dice = 2 * both / (predicted + reference)  # 0 / 0 is NaN
        value = (1 - dice.nanmean(dim=1)).nan_to_num(0.0).float()
        return value, value
