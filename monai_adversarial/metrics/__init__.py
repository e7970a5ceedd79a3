# SPDX-License-Identifier: Apache-2.0
"""Scores of attacks: segmentation quality per organ, visibility of the change, statistics over patients."""

from __future__ import annotations

from monai_adversarial.metrics.certified_dice import CertifiedDice, certified_dice
from monai_adversarial.metrics.robust_dice import RobustDice
from monai_adversarial.metrics.segmentation import OrganScores, mean_score, organ_names, score_segmentation
from monai_adversarial.metrics.statistics import Summary, bootstrap_interval, summarize
from monai_adversarial.metrics.visibility import score_visibility

__all__ = [
    "CertifiedDice",
    "OrganScores",
    "RobustDice",
    "Summary",
    "bootstrap_interval",
    "certified_dice",
    "mean_score",
    "organ_names",
    "score_segmentation",
    "score_visibility",
    "summarize",
]
