# SPDX-License-Identifier: Apache-2.0
"""SegPGD: from correct voxels to all voxels as the search goes on."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import Objective, Progress, VoxelwiseObjective
from monai_adversarial.attacks.objectives.comparison import Comparison
from monai_adversarial.attacks.objectives.cross_entropy import CrossEntropy

__all__ = ["SegPGD"]


class SegPGD(VoxelwiseObjective):
    """Mean cross-entropy with weight 1 - r for correct and r for wrong voxels, where r = step / (2 * steps).

    The weights have no gradient. In a targeted attack the voxels that already are as wanted take the place of the
    wrong ones.

    >>> from monai_adversarial.attacks import PGD, SegPGD
    >>> from monai_adversarial.data.example import example_case
    >>> result = PGD(16, "HU", steps=4, objective=SegPGD())(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Source: Gu, Zhao, Tresp and Torr, SegPGD: An Effective and Efficient Adversarial Attack for Evaluating and Boosting
    Segmentation Robustness, ECCV 2022.

    Survey entry: X01 (published).
    """

    comparable = False
    follows_progress = True

    def for_classifier(self) -> Objective:
        """Cross-entropy: of one decision per image the weights are the same factor everywhere."""
        return CrossEntropy()

    def elements(self, comparison: Comparison, progress: Progress, targeted: bool) -> torch.Tensor:
        done = progress.step / (2 * progress.steps)
        losses = comparison.cross_entropy()
        left = comparison.correct()
        left = ~left if targeted else left
        return losses * (done + (1 - 2 * done) * left.to(losses.dtype))
