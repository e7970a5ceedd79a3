# SPDX-License-Identifier: Apache-2.0
"""Gradient estimators: how the attacker learns a direction."""

from __future__ import annotations

from monai_adversarial.attacks.gradients.base import Evaluation, GradientEstimator, ObjectiveFunction
from monai_adversarial.attacks.gradients.exact import ExactGradient, WindowwiseGradient
from monai_adversarial.attacks.gradients.expectation import ExpectationOverTransformation
from monai_adversarial.attacks.gradients.substitute import BackwardPassSubstitute

__all__ = [
    "BackwardPassSubstitute",
    "Evaluation",
    "ExactGradient",
    "ExpectationOverTransformation",
    "GradientEstimator",
    "ObjectiveFunction",
    "WindowwiseGradient",
]
