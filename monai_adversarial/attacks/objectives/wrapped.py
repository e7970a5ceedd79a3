# SPDX-License-Identifier: Apache-2.0
"""What objectives share that are another one with something added to it."""

from __future__ import annotations

from abc import abstractmethod

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Objective, Parts, Progress
from monai_adversarial.attacks.objectives.registry import get_objective
from monai_adversarial.attacks.objectives.target import Target

__all__ = ["WrappedObjective"]


class WrappedObjective(AdditiveObjective):
    """The sums over voxels of another objective.

    Args:
        objective: name, or an objective of sums over voxels, as all built-in ones are.

    Raises:
        TypeError: for an objective that is no sum over voxels.
    """

    def __init__(self, objective: str | Objective) -> None:
        inner = get_objective(objective)
        if not isinstance(inner, AdditiveObjective):
            raise TypeError(f"objective must be a sum over voxels (AdditiveObjective), got {type(inner).__name__}.")
        self.objective = inner
        self.comparable, self.follows_progress = inner.comparable, inner.follows_progress

    @abstractmethod
    def _around(self, objective: Objective) -> Objective:
        """The same around another objective."""

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        return self.objective.parts(logits, target, progress, targeted)

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        return self.objective.parts_of_reference(target, dtype)

    def support(self, target: Target) -> torch.Tensor | None:
        return self.objective.support(target)

    def for_classifier(self) -> Objective:
        """The same of what takes its objective's place."""
        inner = self.objective.for_classifier()
        return self if inner is self.objective else self._around(inner)
