# SPDX-License-Identifier: Apache-2.0
"""Scores of attacks: segmentation quality per organ, visibility of the change, statistics over patients."""

from __future__ import annotations

from monai_adversarial.metrics.attention import AttentionOverlap, attention_overlap
from monai_adversarial.metrics.boundary_distance import BoundaryDistance, local_lipschitz
from monai_adversarial.metrics.budget_curve import BudgetCurve, normalized_area
from monai_adversarial.metrics.calibration import CalibrationUnderAttack, brier_score, expected_calibration_error
from monai_adversarial.metrics.case_metric import CaseMetric
from monai_adversarial.metrics.certified_dice import CertifiedDice, CertifiedDiceMetric, certified_dice
from monai_adversarial.metrics.certified_information import (
    CertifiedInformation,
    CertifiedInformationMetric,
    certified_information,
)
from monai_adversarial.metrics.certified_recall import CertifiedRecall, CertifiedRecallMetric, certified_recall
from monai_adversarial.metrics.class_hierarchy import ClassHierarchy
from monai_adversarial.metrics.deformation import DeformationStatistics, deformation_statistics
from monai_adversarial.metrics.destruction import DestructionRate, destruction_rate
from monai_adversarial.metrics.detection import AdversarialRisk, DetectionMetric, detection_scores
from monai_adversarial.metrics.dice import hard_prediction, mean_foreground_dice, organ_dice
from monai_adversarial.metrics.enhancement import AdvantageCheck, EnhancementGain, check_advantages
from monai_adversarial.metrics.landmark_distance import landmark_distance
from monai_adversarial.metrics.organ_drop import OrganDrop
from monai_adversarial.metrics.organ_errors import OrganErrors
from monai_adversarial.metrics.organ_metric import OrganMetric
from monai_adversarial.metrics.organ_presence import OrganPresence
from monai_adversarial.metrics.organs import organ_channels, organ_names
from monai_adversarial.metrics.paired import PairedTest, by_patient, compare_paired, holm, paired_test
from monai_adversarial.metrics.pareto import ParetoTable
from monai_adversarial.metrics.robust_dice import RobustDice
from monai_adversarial.metrics.robust_dice_curve import RobustDiceCurve
from monai_adversarial.metrics.saliency import SaliencyConcentration, saliency_concentration
from monai_adversarial.metrics.segmentation import OrganScores, mean_score, score_segmentation
from monai_adversarial.metrics.ssim_curve import SSIMCurve
from monai_adversarial.metrics.statistics import Summary, bootstrap_interval, summarize
from monai_adversarial.metrics.success import success, success_rule
from monai_adversarial.metrics.success_rate import SuccessRate
from monai_adversarial.metrics.target_iou import TargetIoU
from monai_adversarial.metrics.transfer import TransferMatrix, shuffled_change
from monai_adversarial.metrics.visibility import score_visibility
from monai_adversarial.metrics.volume_change import VolumeChange

__all__ = [
    "landmark_distance",
    "AdvantageCheck",
    "AdversarialRisk",
    "AttentionOverlap",
    "BoundaryDistance",
    "BudgetCurve",
    "CalibrationUnderAttack",
    "CaseMetric",
    "CertifiedDice",
    "CertifiedDiceMetric",
    "CertifiedInformation",
    "CertifiedInformationMetric",
    "CertifiedRecall",
    "CertifiedRecallMetric",
    "ClassHierarchy",
    "DeformationStatistics",
    "DestructionRate",
    "DetectionMetric",
    "EnhancementGain",
    "OrganDrop",
    "OrganErrors",
    "OrganMetric",
    "OrganPresence",
    "OrganScores",
    "PairedTest",
    "ParetoTable",
    "RobustDice",
    "RobustDiceCurve",
    "SSIMCurve",
    "SaliencyConcentration",
    "SuccessRate",
    "Summary",
    "TargetIoU",
    "TransferMatrix",
    "VolumeChange",
    "attention_overlap",
    "bootstrap_interval",
    "brier_score",
    "by_patient",
    "certified_dice",
    "certified_information",
    "certified_recall",
    "check_advantages",
    "compare_paired",
    "deformation_statistics",
    "destruction_rate",
    "detection_scores",
    "expected_calibration_error",
    "hard_prediction",
    "holm",
    "local_lipschitz",
    "mean_foreground_dice",
    "mean_score",
    "normalized_area",
    "organ_channels",
    "organ_dice",
    "organ_names",
    "paired_test",
    "saliency_concentration",
    "score_segmentation",
    "score_visibility",
    "shuffled_change",
    "success",
    "success_rule",
    "summarize",
]
