# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers: adversarial training, adversarial evaluation and detectors at work."""

from __future__ import annotations

from monai_adversarial.handlers.adaptive_free_adversarial_training import AdaptiveFreeAdversarialTraining
from monai_adversarial.handlers.adversarial_distillation import (
    AdversarialDistillation,
    adversarially_robust_distillation,
    defensive_distillation,
    robust_soft_label,
    self_distillation,
)
from monai_adversarial.handlers.adversarial_evaluation import AdversarialEvaluation
from monai_adversarial.handlers.adversarial_training import AdversarialTraining
from monai_adversarial.handlers.case_metrics import CaseMetricHandler
from monai_adversarial.handlers.detection import DetectionHandler
from monai_adversarial.handlers.evaluation_worst_case import WorstCaseEvaluation
from monai_adversarial.handlers.fast_adversarial_training import FastAdversarialTraining
from monai_adversarial.handlers.free_adversarial_training import FreeAdversarialTraining
from monai_adversarial.handlers.helper_examples import HelperAdversarialTraining
from monai_adversarial.handlers.input_gradient_regularization import InputGradientRegularization
from monai_adversarial.handlers.loss_term import AdversarialLossTerm
from monai_adversarial.handlers.margin_adversarial_training import MarginAdversarialTraining
from monai_adversarial.handlers.schedules import LinearSchedule, UniformSchedule
from monai_adversarial.handlers.semi_supervised import SemiSupervisedAdversarialTraining

__all__ = [
    "AdaptiveFreeAdversarialTraining",
    "AdversarialDistillation",
    "AdversarialEvaluation",
    "AdversarialLossTerm",
    "AdversarialTraining",
    "CaseMetricHandler",
    "DetectionHandler",
    "FastAdversarialTraining",
    "FreeAdversarialTraining",
    "HelperAdversarialTraining",
    "InputGradientRegularization",
    "LinearSchedule",
    "MarginAdversarialTraining",
    "SemiSupervisedAdversarialTraining",
    "UniformSchedule",
    "WorstCaseEvaluation",
    "adversarially_robust_distillation",
    "defensive_distillation",
    "robust_soft_label",
    "self_distillation",
]
