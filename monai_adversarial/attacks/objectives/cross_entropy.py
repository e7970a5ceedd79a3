# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy, plain and balanced over classes."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import Progress, VoxelwiseObjective
from monai_adversarial.attacks.objectives.comparison import Comparison

__all__ = ["BalancedCrossEntropy", "CrossEntropy"]


class CrossEntropy(VoxelwiseObjective):
    """Mean cross-entropy of the voxels; binary cross-entropy of each channel with sigmoid.

    >>> import torch
    >>> from monai_adversarial.attacks.objectives import CrossEntropy, Progress, Target
    >>> logits, label = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 1, 4, 4))
    >>> values = CrossEntropy().value(logits, Target.from_label(label, classes=3), Progress(0, 1))
    >>> expected = torch.nn.functional.cross_entropy(logits, label[:, 0], reduction="none").mean(dim=(1, 2))
    >>> torch.allclose(values, expected)
    True
    """

    def elements(self, comparison: Comparison, progress: Progress, targeted: bool) -> torch.Tensor:
        return comparison.cross_entropy()


class BalancedCrossEntropy(CrossEntropy):
    """Mean over the classes that occur in the sample of their mean cross-entropy.

    >>> import torch
    >>> from monai_adversarial.attacks.objectives import BalancedCrossEntropy, CrossEntropy, Progress, Target
    >>> target = Target.from_label(torch.tensor([[[0, 0, 0, 1]]]), classes=2)
    >>> logits = torch.tensor([[[9.0, 9.0, 9.0, 9.0], [0.0, 0.0, 0.0, 0.0]]])
    >>> losses = CrossEntropy(), BalancedCrossEntropy()
    >>> [round(float(loss.value(logits, target, Progress(0, 1))), 1) for loss in losses]
    [2.3, 4.5]
    """

    def __init__(self) -> None:
        super().__init__(balanced=True)
