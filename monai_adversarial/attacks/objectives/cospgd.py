# SPDX-License-Identifier: Apache-2.0
"""CosPGD: cross-entropy weighted by how well prediction and reference agree."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import Objective, Progress, VoxelwiseObjective
from monai_adversarial.attacks.objectives.comparison import Comparison
from monai_adversarial.attacks.objectives.cross_entropy import CrossEntropy

__all__ = ["CosPGD"]


class CosPGD(VoxelwiseObjective):
    """Mean cross-entropy of the voxels, each weighted by the cosine between its probabilities and its reference.

    The weights have no gradient. A targeted attack weights by 1 - cosine: voxels that are not yet as wanted. With
    sigmoid the probabilities of an element are those of its channel and of the channel's complement.

    >>> from monai_adversarial.attacks import PGD, CosPGD
    >>> from monai_adversarial.data.example import example_case
    >>> result = PGD(16, "HU", steps=4, objective=CosPGD())(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Source: Agnihotri, Jung and Keuper, CosPGD: An Efficient White-Box Adversarial Attack for Pixel-Wise Prediction
    Tasks, ICML 2024.

    Survey entry: X01 (published).
    """

    comparable = False

    def for_classifier(self) -> Objective:
        """Cross-entropy: of one decision per image the weights are the same factor everywhere."""
        return CrossEntropy()

    def elements(self, comparison: Comparison, progress: Progress, targeted: bool) -> torch.Tensor:
        cosine = comparison.cosine()
        return comparison.cross_entropy() * (1 - cosine if targeted else cosine)
