# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy, plain and balanced over classes."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import Progress, VoxelwiseObjective
from monai_adversarial.attacks.objectives.comparison import Comparison

__all__ = ["BalancedCrossEntropy", "CrossEntropy"]


class CrossEntropy(VoxelwiseObjective):
    """Mean cross-entropy of the voxels; binary cross-entropy of each channel with sigmoid."""

    def elements(self, comparison: Comparison, progress: Progress, targeted: bool) -> torch.Tensor:
        return comparison.cross_entropy()


class BalancedCrossEntropy(CrossEntropy):
    """Mean over the classes that occur in the sample of their mean cross-entropy."""

    def __init__(self) -> None:
        super().__init__(balanced=True)
