# SPDX-License-Identifier: Apache-2.0
"""How the attacker learns a direction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.calls import ShownAsCall

__all__ = ["Evaluation", "GradientEstimator", "ObjectiveFunction"]

# Parameters -> (objective (batch,), rank (batch,), logits or None where nobody needs them)
ObjectiveFunction = Callable[[Parameters], tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class Evaluation:
    """Value and direction at one point.

    Args:
        values: objective per sample, (batch,), detached.
        ranks: what candidates are compared by, (batch,): the values themselves for most objectives.
        gradients: one tensor per parameter tensor.
        logits: what the network answered, detached; None where nobody needs it.
        forwards: forward passes per sample that it took.
        backwards: backward passes per sample that it took.
        prediction: the segmentation as it is scored, of a search without gradients; None otherwise.
    """

    values: torch.Tensor
    ranks: torch.Tensor
    gradients: Parameters
    logits: torch.Tensor | None
    forwards: int
    backwards: int
    prediction: torch.Tensor | None = None


class GradientEstimator(ShownAsCall, ABC):
    """Estimates the gradient of the objective with respect to the parameters of the perturbation.

    Attributes:
        windowwise: objectives may be averaged over sliding windows; see ``WindowwiseGradient``.
        averages: a value is the mean over several draws, which one pass does not give.
    """

    _shows_defaults = True
    windowwise: bool = False
    averages: bool = False

    @abstractmethod
    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """Value and gradient per sample.

        Args:
            function: the objective of the attack, to be maximized.
            parameters: detached parameters.
            scale: constant by which the objective is multiplied before the backward pass and the gradient divided
                afterwards, against underflow in half precision.
        """

    def rank(self, function: ObjectiveFunction, parameters: Parameters) -> torch.Tensor:
        """What candidates are compared by at one point, (batch,); nothing is differentiated."""
        with torch.no_grad():
            return function(parameters)[1]
