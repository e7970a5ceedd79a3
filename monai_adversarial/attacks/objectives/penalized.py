# SPDX-License-Identifier: Apache-2.0
"""What objectives share that charge another one for how the change looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from monai_adversarial.attacks.objectives.base import Objective, Parts
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.attacks.objectives.wrapped import WrappedObjective
from monai_adversarial.utils.validation import check_positive

if TYPE_CHECKING:
    from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters

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

    def image_term(self, bound: BoundPerturbation, changed: torch.Tensor) -> torch.Tensor | None:
        """What the objective wants of the image, weighted."""
        return self._weighted(super().image_term(bound, changed))

    def parameter_term(self, bound: BoundPerturbation, parameters: Parameters) -> torch.Tensor | None:
        """What the objective wants of the parameters, weighted."""
        return self._weighted(super().parameter_term(bound, parameters))

    def _weighted(self, term: torch.Tensor | None) -> torch.Tensor | None:
        return None if term is None else self.weight * term
