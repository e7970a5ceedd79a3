# SPDX-License-Identifier: Apache-2.0
"""What objectives share that charge another one for how the change looks."""

from __future__ import annotations

from abc import abstractmethod

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Objective, Parts, Progress
from monai_adversarial.attacks.objectives.registry import get_objective
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.utils.validation import check_positive

__all__ = ["PenalizedObjective"]


class PenalizedObjective(AdditiveObjective):
    """``weight * objective``, to which a subclass adds an ``image_term`` or a ``parameter_term``.

    Args:
        objective: name, or an objective of sums over voxels, as all built-in ones are.
        weight: its factor, above 0.

    Raises:
        TypeError: for an objective that is no sum over voxels.
        ValueError: for a weight out of range.
    """

    def __init__(self, objective: str | Objective, weight: float) -> None:
        inner = get_objective(objective)
        if not isinstance(inner, AdditiveObjective):
            raise TypeError(f"objective must be a sum over voxels (AdditiveObjective), got {type(inner).__name__}.")
        self.objective = inner
        self.comparable, self.follows_progress = inner.comparable, inner.follows_progress
        self.weight = check_positive("weight", weight)

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        return self.objective.parts(logits, target, progress, targeted)

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        return self.objective.parts_of_reference(target, dtype)

    def support(self, target: Target) -> torch.Tensor | None:
        return self.objective.support(target)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the objective, weighted."""
        value, rank = self.objective.combine(parts, target)
        return self.weight * value, self.weight * rank

    def for_classifier(self) -> Objective:
        """The same of what takes its objective's place."""
        inner = self.objective.for_classifier()
        return self if inner is self.objective else self._around(inner)

    @abstractmethod
    def _around(self, objective: Objective) -> PenalizedObjective:
        """The same penalty around another objective."""
