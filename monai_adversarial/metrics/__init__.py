# SPDX-License-Identifier: Apache-2.0
"""Scores of attacks: segmentation quality per organ, visibility of the change, statistics over patients."""

from __future__ import annotations

from monai_adversarial.metrics.case_metric import CaseMetric
from monai_adversarial.metrics.certified_dice import CertifiedDice, certified_dice
from monai_adversarial.metrics.certified_information import CertifiedInformation, certified_information
from monai_adversarial.metrics.certified_recall import CertifiedRecall, CertifiedRecallMetric, certified_recall
from monai_adversarial.metrics.class_hierarchy import ClassHierarchy
from monai_adversarial.metrics.destruction import destruction_rate
from monai_adversarial.metrics.detection import AdversarialRisk, DetectionMetric, detection_scores
from monai_adversarial.metrics.dice import hard_prediction, mean_foreground_dice, organ_dice
from monai_adversarial.metrics.organ_drop import OrganDrop
from monai_adversarial.metrics.organ_metric import OrganMetric
from monai_adversarial.metrics.organ_presence import OrganPresence
from monai_adversarial.metrics.organs import organ_channels, organ_names
from monai_adversarial.metrics.robust_dice import RobustDice
from monai_adversarial.metrics.segmentation import OrganScores, mean_score, score_segmentation
from monai_adversarial.metrics.statistics import Summary, bootstrap_interval, summarize
from monai_adversarial.metrics.success import success, success_rule
from monai_adversarial.metrics.success_rate import SuccessRate
from monai_adversarial.metrics.transfer import TransferMatrix, shuffled_change
from monai_adversarial.metrics.visibility import score_visibility
from monai_adversarial.metrics.volume_change import VolumeChange

__all__ = [
    "AdversarialRisk",
    "CaseMetric",
    "CertifiedDice",
    "CertifiedInformation",
    "CertifiedRecall",
    "CertifiedRecallMetric",
    "ClassHierarchy",
    "DetectionMetric",
    "OrganDrop",
    "OrganMetric",
    "OrganPresence",
    "OrganScores",
    "RobustDice",
    "SuccessRate",
    "Summary",
    "TransferMatrix",
    "VolumeChange",
    "bootstrap_interval",
    "certified_dice",
    "certified_information",
    "certified_recall",
    "detection_scores",
    "destruction_rate",
    "hard_prediction",
    "mean_foreground_dice",
    "mean_score",
    "organ_channels",
    "organ_dice",
    "organ_names",
    "score_segmentation",
    "score_visibility",
    "shuffled_change",
    "success",
    "success_rule",
    "summarize",
]
