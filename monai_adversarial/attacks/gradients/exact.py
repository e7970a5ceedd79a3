# SPDX-License-Identifier: Apache-2.0
"""Exact gradients by automatic differentiation."""

from __future__ import annotations

from monai_adversarial.attacks.gradients.base import Evaluation, GradientEstimator, ObjectiveFunction
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.backward_pass import differentiate

__all__ = ["ExactGradient"]


class ExactGradient(GradientEstimator):
    """One forward and one backward pass, to the parameters only. Through sliding windows it is exact as well (see
    ``inferers``)."""

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """Differentiate the sum over samples: a sample's objective depends on its own parameters alone."""
        leaves = tuple(parameter.detach().requires_grad_() for parameter in parameters)
        values, ranks, logits = function(leaves)
        if not values.requires_grad:
            raise RuntimeError(
                "the network's output does not depend on the image through differentiable operations: remove "
                "argmax, detach, "
                "torch.no_grad or NumPy from the attacked function."
            )
        total = values.sum()
        gradients = differentiate(total if scale == 1.0 else total * scale, leaves)
        if scale != 1.0:
            gradients = tuple(gradient / scale for gradient in gradients)
        return Evaluation(values.detach(), ranks, tuple(g.detach() for g in gradients), logits.detach(), 1, 1)
