# SPDX-License-Identifier: Apache-2.0
"""Wanted segmentations of targeted attacks: a segmentation goes in, the one that the attacker wants comes out."""

from __future__ import annotations

from monai_adversarial.attacks.targets.classes import empty_organ, other_organ, swapped_left_right
from monai_adversarial.attacks.targets.drawn import drawn_mask
from monai_adversarial.attacks.targets.landmarks import landmark_balls
from monai_adversarial.attacks.targets.shapes import (
    dilated_organ,
    eroded_organ,
    grown_by_volume,
    shifted_organ,
    shrunk_by_volume,
)

__all__ = [
    "dilated_organ",
    "drawn_mask",
    "empty_organ",
    "eroded_organ",
    "grown_by_volume",
    "landmark_balls",
    "other_organ",
    "shifted_organ",
    "shrunk_by_volume",
    "swapped_left_right",
]
