# SPDX-License-Identifier: Apache-2.0
"""Dice that sharpens as the search goes on, plus masked cross-entropy: the default of PGD."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Objective, Parts, Progress
from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.dice import Dice
from monai_adversarial.attacks.objectives.margin import Margin
from monai_adversarial.attacks.objectives.masked_cross_entropy import BalancedMaskedCrossEntropy
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.utils.validation import check_positive

__all__ = ["AnnealedDice"]


class AnnealedDice(AdditiveObjective):
    """Soft Dice of ``softmax(k * logits)`` (sigmoid likewise) whose k grows from step to step, plus the balanced masked
    cross-entropy of the same probabilities, divided by k.

    Soft probabilities and cross-entropy move a confident network, whose Dice has hardly a gradient; sharp ones spend
    the last steps on the voxels whose decision is still open, which is what counts against a hardened network. No
    fixed objective is best against both; docs/search.md has the figures. Candidates are compared by the Dice of the
    decisions, which is what is scored.

    >>> from monai_adversarial.attacks.objectives import AnnealedDice, Progress
    >>> objective = AnnealedDice(first_sharpness=0.5, last_sharpness=8.0)
    >>> [round(objective.sharpness(Progress(step, 5)), 1) for step in range(5)]
    [0.5, 1.0, 2.0, 4.0, 8.0]

    Args:
        first_sharpness: k of the first step.
        last_sharpness: k of the last step; between them k grows by the same factor in each step.
        cross_entropy_weight: factor of :class:`BalancedMaskedCrossEntropy`, >= 0.
        include_background, skip_absent, smooth: see :class:`Dice`; the cross-entropy counts the background always.

    Raises:
        ValueError: for a sharpness that is not positive, or a negative weight.

    Source: our own, of the masked cross-entropy of SEA (see :class:`MaskedCrossEntropy`) and temperature annealing.
    """

    comparable = False
    follows_progress = True

    def __init__(
        self,
        first_sharpness: float = 0.5,
        last_sharpness: float = 8.0,
        cross_entropy_weight: float = 1.0,
        include_background: bool = False,
        skip_absent: bool = True,
        smooth: float = 1e-5,
    ) -> None:
        self.first_sharpness = check_positive("first_sharpness", first_sharpness)
        self.last_sharpness = check_positive("last_sharpness", last_sharpness)
        self.cross_entropy_weight = check_positive("cross_entropy_weight", cross_entropy_weight, allow_zero=True)
        self.dice = Dice(include_background, skip_absent, smooth)
        self.cross_entropy = BalancedMaskedCrossEntropy()

    def sharpness(self, progress: Progress) -> float:
        """k: that of the last step also at the point where the run ends."""
        return progress.growing(self.first_sharpness, self.last_sharpness)

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        sharpness = self.sharpness(progress)
        comparison = compare(logits * sharpness, target, totals=True)
        losses = self.cross_entropy.elements(comparison, progress, targeted) / sharpness
        # Sums of the reference are known: what is left are intersection and predicted.
        sums = self.dice.parts_of(comparison)[:2]
        return comparison.average(losses, balanced=True), *sums, *comparison.decision_sums()

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        """Organs as large as they are, where they are."""
        sums = self.dice.parts_of_reference(target, dtype)
        return torch.zeros_like(sums[0][:, 0]), *sums, *sums

    def for_classifier(self) -> Objective:
        """The margin, which is never saturated; docs/classification.md has the figures."""
        return Margin(math.inf)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of both, and the Dice of the decisions."""
        cross_entropy, *sums = parts
        value = self.cross_entropy_weight * cross_entropy + self.dice.combine(tuple(sums[:2]), target)[0]
        return value, self.dice.combine(tuple(sums[2:]), target)[0]
