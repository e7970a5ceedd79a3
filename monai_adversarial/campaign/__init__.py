# SPDX-License-Identifier: Apache-2.0
"""Attacks over a folder of cases: scores, files, pictures and a report, continued where they were interrupted."""

from __future__ import annotations

from monai_adversarial.campaign.campaign import AttackCampaign
from monai_adversarial.campaign.cases import find_cases
from monai_adversarial.campaign.command_line import show_errors_as_sentences
from monai_adversarial.campaign.defenses import place_purifiers
from monai_adversarial.campaign.purification import PurificationStudy
from monai_adversarial.campaign.training_study import TrainingStudy
from monai_adversarial.campaign.weights import load_weights

__all__ = [
    "AttackCampaign",
    "PurificationStudy",
    "TrainingStudy",
    "find_cases",
    "load_weights",
    "place_purifiers",
    "show_errors_as_sentences",
]
