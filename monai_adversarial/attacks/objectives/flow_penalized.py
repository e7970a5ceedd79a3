# SPDX-License-Identifier: Apache-2.0
"""An objective that also wants neighboring voxels to move alike."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import Objective
from monai_adversarial.attacks.objectives.penalized import PenalizedObjective
from monai_adversarial.attacks.objectives.wrapped import with_inner
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.attacks.perturbations.flow import BoundFlowField, total_variation
from monai_adversarial.utils.validation import check_positive

__all__ = ["FlowPenalized"]


class FlowPenalized(PenalizedObjective):
    """``weight * objective - smoothness * total variation`` of a :class:`~monai_adversarial.attacks.FlowField`.

    >>> from monai_adversarial.attacks import Attack, FlowField, FlowPenalized
    >>> from monai_adversarial.data.example import example_case
    >>> found = [Attack(FlowField(3.0), FlowPenalized("dice", 1.0, tau), steps=4)(*example_case(16)) for tau in (0, 1)]
    >>> rough, smooth = (result.budgets["flow_total_variation"].values for result in found)
    >>> bool(smooth < rough)
    True

    Args:
        objective, weight: see :class:`~monai_adversarial.attacks.SSIMPenalized`.
        smoothness: factor of the total variation, >= 0, the paper's tau; 0.05 there, of a sum over pixels.

    Raises:
        TypeError: for an objective that is no sum over voxels; in an attack, for a perturbation that is no flow.
        ValueError: for a weight out of range.

    Source: Xiao et al., "Spatially transformed adversarial examples", ICLR 2018, equations 2 and 4.

    Survey entry: X09 (adapted).
    """

    def __init__(self, objective: str | Objective = "dice", weight: float = 1.0, smoothness: float = 0.05) -> None:
        super().__init__(objective, weight)
        self.smoothness = check_positive("smoothness", smoothness, allow_zero=True)

    def _around(self, objective: Objective) -> FlowPenalized:
        return FlowPenalized(objective, self.weight, self.smoothness)

    def parameter_term(self, bound: BoundPerturbation, parameters: Parameters) -> torch.Tensor:
        """The total variation, negative, with what the inner objective wants of the parameters."""
        if not isinstance(bound, BoundFlowField):
            given = type(bound).__name__.removeprefix("Bound")
            raise TypeError(f"FlowPenalized charges for the roughness of a FlowField, got {given}.")
        term = -self.smoothness * total_variation(parameters[0], bound.spacing)
        inner = super().parameter_term(bound, parameters)
        return with_inner(term, inner)
