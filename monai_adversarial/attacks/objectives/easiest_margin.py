# SPDX-License-Identifier: Apache-2.0
"""Margin of the voxels that have to change, and of no others."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.objectives.base import Objective, Progress
from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.easiest import easiest, groups_of
from monai_adversarial.attacks.objectives.margin import Margin
from monai_adversarial.attacks.objectives.softmax_statistics import class_sums
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["EasiestMargin"]


class EasiestMargin(Objective):
    """Mean margin of the ``share`` of each organ's voxels that are nearest to being wrong, averaged over organs.

    A Dice falls to half its value when two thirds of an organ's voxels are missed: the last third, which is the
    hardest, need not be fought for. The value is zero where that share is wrong, which makes it a distance to the
    boundary for attacks that look for the smallest change.

    >>> import torch
    >>> from monai_adversarial.attacks import EasiestMargin
    >>> from monai_adversarial.attacks.objectives import Progress, Target
    >>> logits = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 2.0, 9.0]]])
    >>> target = Target(2, index=torch.ones(1, 3, dtype=torch.long))
    >>> EasiestMargin().value(logits, target, Progress(0, 1))
    tensor([-1.5000])

    Args:
        share: of the voxels; two thirds by default.
        confidence: margin in logits above which a wrong voxel gets no more attention, >= 0.

    Source: ours, after the masked constraints of ALMA-prox (Rony et al. 2023).
    """

    def __init__(self, share: float = 2 / 3, confidence: float = 0.0) -> None:
        self.share = check_fraction("share", share)
        if confidence != math.inf:
            confidence = check_positive("confidence", confidence, allow_zero=True)
        self.confidence = confidence

    def for_classifier(self) -> Margin:
        """The margin of the image's one decision."""
        return Margin(self.confidence)

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        """Zero where the share is wrong (targeted: as wanted), below it (above it) elsewhere."""
        margin = compare(logits, target).margin(-math.inf, math.inf)
        groups, weight, count = target.constant("groups_of", lambda: groups_of(target))
        chosen = easiest(-margin if targeted else margin, groups, weight, count, self.share)
        clipped = margin.clamp_min(-self.confidence) if targeted else margin.clamp_max(self.confidence)
        flat = groups.flatten(1)
        sums = class_sums((clipped * chosen).flatten(1), flat, count + 1)[:, :count]
        sizes = class_sums(chosen.flatten(1), flat, count + 1)[:, :count]
        present = sizes > 0
        means = torch.where(present, sums / sizes.clamp_min(1), 0.0)
        return means.sum(dim=1) / present.sum(dim=1).clamp_min(1)
