# SPDX-License-Identifier: Apache-2.0
"""What objectives share that charge another one for how the change looks."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import Objective, Parts
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.attacks.objectives.wrapped import WrappedObjective
from monai_adversarial.utils.validation import check_positive

__all__ = ["PenalizedObjective"]


class PenalizedObjective(WrappedObjective):
    """``weight * objective``, to which a subclass adds an ``image_term`` or a ``parameter_term``.

    Args:
        objective: name, or an objective of sums over voxels, as all built-in ones are.
        weight: its factor, above 0.

    Raises:
        TypeError: for an objective that is no sum over voxels.
        ValueError: for a weight out of range.
    """

    def __init__(self, objective: str | Objective, weight: float) -> None:
        super().__init__(objective)
        self.weight = check_positive("weight", weight)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the objective, weighted."""
        value, rank = self.objective.combine(parts, target)
        return self.weight * value, self.weight * rank
