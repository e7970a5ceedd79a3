# SPDX-License-Identifier: Apache-2.0
"""What the attacker wants: one number per sample that it maximizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.comparison import Comparison
from monai_adversarial.attacks.objectives.target import Target

__all__ = ["Objective", "Progress", "VoxelwiseObjective"]


@dataclass(frozen=True)
class Progress:
    """Where the search stands: some objectives change their weights on the way (SegPGD).

    Args:
        step: index of the current evaluation, from 0.
        steps: number of steps of the search.
    """

    step: int
    steps: int


class Objective(ABC):
    """A loss per sample, never averaged over the batch.

    ``value`` is the loss against the reference labels. An untargeted attack maximizes it; a targeted attack, whose
    reference is the wanted segmentation, minimizes it (:class:`~monai_adversarial.attacks.Attack` turns the sign).

    Attributes:
        comparable: a higher value is a worse segmentation at any step. False where the weights of the voxels follow
            the prediction or the step: such a value guides the next step, but two of them do not tell which candidate
            is better. ``value_and_rank`` does.
    """

    comparable: bool = True

    @abstractmethod
    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        """Loss of each sample.

        Args:
            logits: (batch, class, spatial...), float32 or float64, before softmax or sigmoid.
            target: the reference labels, where they count, and how logits become probabilities.
            progress: position in the search.
            targeted: ``target`` is what the attacker wants to see instead of the truth; weights that depend on being
                right or wrong swap.

        Returns:
            (batch,)
        """

    def value_and_rank(
        self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The value, and what to keep the best candidate by.

        Args are those of ``value``.

        Returns:
            The loss to differentiate and a number without gradient that may be compared between steps (higher is a
            worse match with ``target``), each (batch,). They are the same where ``comparable`` is True.
        """
        value = self.value(logits, target, progress, targeted)
        return value, value.detach()

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({settings})"


class VoxelwiseObjective(Objective):
    """A weighted mean over voxels (with sigmoid: over voxels of all channels).

    Args:
        balanced: every class that occurs in a sample has the same weight there, 1 / number of its voxels for each of
            them, so that a small organ is not drowned by the background. With sigmoid, foreground and background of
            each channel are the classes.
    """

    def __init__(self, balanced: bool = False) -> None:
        self.balanced = balanced

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        comparison = compare(logits, target)
        return comparison.average(self.elements(comparison, progress, targeted), self.balanced)

    def value_and_rank(
        self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The value, and itself or (unless ``comparable``) the weighted fraction of wrong decisions."""
        comparison = compare(logits, target)
        value = comparison.average(self.elements(comparison, progress, targeted), self.balanced)
        if self.comparable:
            return value, value.detach()
        wrong = (~comparison.correct()).to(logits.dtype)
        return value, comparison.average(wrong, self.balanced).detach()

    @abstractmethod
    def elements(self, comparison: Comparison, progress: Progress, targeted: bool) -> torch.Tensor:
        """The loss of each element of ``comparison``: (batch, groups, spatial...)."""
