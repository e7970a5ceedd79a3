# SPDX-License-Identifier: Apache-2.0
"""Gradient estimators: how the attacker learns a direction."""

from __future__ import annotations

from monai_adversarial.attacks.gradients.base import Evaluation, GradientEstimator, ObjectiveFunction
from monai_adversarial.attacks.gradients.exact import ExactGradient

__all__ = ["Evaluation", "ExactGradient", "GradientEstimator", "ObjectiveFunction"]
