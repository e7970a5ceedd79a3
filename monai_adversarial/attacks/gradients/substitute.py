# SPDX-License-Identifier: Apache-2.0
"""Backward pass differentiable approximation (BPDA)."""

from __future__ import annotations

from monai_adversarial.attacks.gradients.base import (
    Evaluation,
    GradientEstimator,
    ObjectiveFunction,
    WrappedEstimator,
)
from monai_adversarial.attacks.gradients.exact import WindowwiseGradient
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.backward_pass import SUBSTITUTES, backward_pass
from monai_adversarial.utils.validation import check_choice, check_instance

__all__ = ["BackwardPassSubstitute"]


class BackwardPassSubstitute(WrappedEstimator):
    """Runs every purifier forward as it is and backward through a stand-in: backward pass differentiable approximation.

    It concerns purifiers (and whatever else calls ``call_with_backward_pass``) in front of, or inside, the attacked
    function; everything else is differentiated exactly. It composes with all perturbations, objectives, searches and
    inferers, and with ``ExpectationOverTransformation``.

    >>> from monai.inferers import SimpleInferer
    >>> from monai_adversarial.attacks import PGD, BackwardPassSubstitute
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.inferers import PurifiedInferer
    >>> from monai_adversarial.purifiers import MedianDenoise
    >>> model, image, label = example_case(16)
    >>> defended = model.replace(inferer=PurifiedInferer(SimpleInferer(), MedianDenoise()))
    >>> aware = PGD(32, "HU", steps=3, gradient=BackwardPassSubstitute("identity"))
    >>> bool(aware(defended, image, label).success)
    True

    Source: Athalye, Carlini, Wagner, "Obfuscated gradients give a false sense of security", ICML 2018.

    Args:
        substitute: ``"declared"`` (default): exactly where a purifier is differentiable, otherwise as it declares
            (its surrogate or the identity). ``"identity"``: the identity for every purifier. ``"surrogate"``: the
            surrogate where there is one, else the identity. ``"exact"``: as ``WindowwiseGradient``.
        estimator: computes the gradient with that backward pass; None for ``WindowwiseGradient``.
    """

    def __init__(self, substitute: str = "declared", estimator: GradientEstimator | None = None) -> None:
        self.substitute = check_choice("substitute", substitute, SUBSTITUTES)
        self.estimator: GradientEstimator = (
            WindowwiseGradient()
            if estimator is None
            else check_instance("estimator", estimator, GradientEstimator, "ExpectationOverTransformation(20)")
        )

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """As the inner estimator, with the chosen backward pass in force forward and backward."""
        with backward_pass(self.substitute):
            return self.estimator.evaluate(function, parameters, scale)
