# SPDX-License-Identifier: Apache-2.0
"""Gradient estimators: how the attacker learns a direction."""

from __future__ import annotations

from monai_adversarial.attacks.gradients.base import (
    Evaluation,
    GradientEstimator,
    InputView,
    ObjectiveFunction,
    WrappedEstimator,
)
from monai_adversarial.attacks.gradients.coordinates import CoordinateZerothOrder
from monai_adversarial.attacks.gradients.evolution import SAGM
from monai_adversarial.attacks.gradients.exact import ExactGradient, WindowwiseGradient
from monai_adversarial.attacks.gradients.expectation import ExpectationOverTransformation
from monai_adversarial.attacks.gradients.queries import QueryGradient
from monai_adversarial.attacks.gradients.random_directions import NaturalEvolution, RandomGradientFree
from monai_adversarial.attacks.gradients.substitute import BackwardPassSubstitute
from monai_adversarial.attacks.gradients.surrogate import SurrogateGradient
from monai_adversarial.attacks.gradients.transfer import (
    InputDiversity,
    NesterovLookahead,
    ScaleInvariance,
    TranslationInvariance,
    VarianceTuning,
)
from monai_adversarial.attacks.gradients.transferable import transferable

__all__ = [
    "transferable",
    "InputDiversity",
    "NesterovLookahead",
    "ScaleInvariance",
    "TranslationInvariance",
    "VarianceTuning",
    "SurrogateGradient",
    "NaturalEvolution",
    "RandomGradientFree",
    "QueryGradient",
    "InputView",
    "WrappedEstimator",
    "SAGM",
    "CoordinateZerothOrder",
    "BackwardPassSubstitute",
    "Evaluation",
    "ExactGradient",
    "ExpectationOverTransformation",
    "GradientEstimator",
    "ObjectiveFunction",
    "WindowwiseGradient",
]
