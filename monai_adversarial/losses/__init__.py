# SPDX-License-Identifier: Apache-2.0
"""Losses of defenses."""

from __future__ import annotations

from monai_adversarial.losses.high_level_guided import HighLevelGuidedLoss

__all__ = ["HighLevelGuidedLoss"]
