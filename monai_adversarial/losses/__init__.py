# SPDX-License-Identifier: Apache-2.0
"""Losses of defenses."""

from __future__ import annotations

from monai_adversarial.losses.consistency import ConsistencyLoss
from monai_adversarial.losses.distillation import DistillationLoss
from monai_adversarial.losses.frequency import FrequencyConsistencyLoss
from monai_adversarial.losses.hat import HATLoss
from monai_adversarial.losses.high_level_guided import HighLevelGuidedLoss
from monai_adversarial.losses.mart import MARTLoss
from monai_adversarial.losses.trades import TRADESLoss

__all__ = [
    "ConsistencyLoss",
    "DistillationLoss",
    "FrequencyConsistencyLoss",
    "HATLoss",
    "HighLevelGuidedLoss",
    "MARTLoss",
    "TRADESLoss",
]
