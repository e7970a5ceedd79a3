# SPDX-License-Identifier: Apache-2.0
"""Exact gradients by automatic differentiation."""

from __future__ import annotations

from monai_adversarial.attacks.gradients.base import Evaluation, GradientEstimator, ObjectiveFunction
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.backward_pass import differentiate

__all__ = ["NOT_DIFFERENTIABLE", "ExactGradient", "WindowwiseGradient"]

NOT_DIFFERENTIABLE = (
    "the network's output does not depend on the image through differentiable operations: remove argmax, detach, "
    "torch.no_grad or NumPy from the attacked function."
)


class ExactGradient(GradientEstimator):
    """One forward and one backward pass, to the parameters only. Through sliding windows it is exact as well (see
    ``inferers``).

    >>> from monai_adversarial.attacks import PGD, ExactGradient
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> PGD(16, "HU", steps=3, gradient=ExactGradient())(model, image, label).backwards
    3
    >>> PGD(16, "HU", gradient=ExactGradient())(lambda x: model.network(x).round().detach(), image, label)
    Traceback (most recent call last):
    RuntimeError: the network's output does not depend on the image through differentiable operations: ...
    """

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """Differentiate the sum over samples: a sample's objective depends on its own parameters alone."""
        leaves = tuple(parameter.detach().requires_grad_() for parameter in parameters)
        values, ranks, logits = function(leaves)
        if not values.requires_grad:
            raise RuntimeError(NOT_DIFFERENTIABLE)
        total = values.sum()
        gradients = differentiate(total if scale == 1.0 else total * scale, leaves)
        if scale != 1.0:
            gradients = tuple(gradient / scale for gradient in gradients)
        kept = None if logits is None else logits.detach()
        return Evaluation(values.detach(), ranks, tuple(g.detach() for g in gradients), kept, 1, 1)


class WindowwiseGradient(ExactGradient):
    """Exact gradients of an objective that is averaged over sliding windows.

    A network that runs in plain sliding windows (``SlidingWindowInferer``, ``SliceInferer``, also behind purifiers that
    move nothing) is attacked window by window. It is the objective of each window's own logits, weighted as windows are
    blended, instead of the objective of the blended logits. It takes one forward and one backward pass per window and
    the memory of one batch of windows, whatever the volume and the number of classes; the gradient of the blended
    logits takes a second forward pass. Windows that neither the perturbation can change nor the objective counts are
    left out. The sums over the volume that set the weights of Dice's classes are those of the step before.

    Everything else is differentiated as by ``ExactGradient``: networks without windows, windows inside a
    ``ScannerSpaceInferer`` or a smoothing inferer, geometric perturbations, ``early_stop``, and objectives that are no
    ``AdditiveObjective``. Scores are those of the blended logits in any case.

    >>> from monai.inferers import SlidingWindowInferer
    >>> from monai_adversarial.attacks import PGD, ExactGradient, WindowwiseGradient
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> windows = model.replace(inferer=SlidingWindowInferer((12, 12, 12), overlap=0.5))
    >>> result = PGD(16, "HU", steps=3, gradient=WindowwiseGradient())(windows, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Source: ours; docs/benchmarks.md compares both at equal cost.
    """

    windowwise = True
