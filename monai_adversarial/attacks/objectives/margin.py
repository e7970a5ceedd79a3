# SPDX-License-Identifier: Apache-2.0
"""Margin between logits: the loss of Carlini and Wagner."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.objectives.base import Progress, VoxelwiseObjective
from monai_adversarial.attacks.objectives.comparison import Comparison
from monai_adversarial.utils.validation import check_positive

__all__ = ["Margin"]


class Margin(VoxelwiseObjective):
    """Mean over voxels of the highest logit of the other classes minus the logit of the reference class.

    Above zero the voxel is wrong. Valid from two classes on; with sigmoid the margin of an element is its logit, with
    the sign that makes a wrong decision positive. A voxel that is wrong by ``confidence`` gets no more attention (in a
    targeted attack: one that is as wanted by ``confidence``).

    >>> import torch
    >>> from monai_adversarial.attacks.objectives import Margin, Progress, Target
    >>> target = Target.from_label(torch.tensor([[[0, 0]]]), classes=3)
    >>> logits = torch.tensor([[[5.0, 1.0], [2.0, 8.0], [0.0, 0.0]]])
    >>> [Margin(confidence).value(logits, target, Progress(0, 1)).tolist() for confidence in (0.0, float("inf"))]
    [[-1.5], [2.0]]

    Args:
        confidence: where the margin is clipped, in logits, >= 0; ``math.inf`` never clips.
        balanced: see :class:`VoxelwiseObjective`.

    Raises:
        ValueError: for a negative ``confidence``.

    Source: Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, 2017.
    """

    def __init__(self, confidence: float = 0.0, balanced: bool = False) -> None:
        super().__init__(balanced)
        if confidence != math.inf:
            confidence = check_positive("confidence", confidence, allow_zero=True)
        self.confidence = confidence

    def elements(self, comparison: Comparison, progress: Progress, targeted: bool) -> torch.Tensor:
        if targeted:
            return comparison.margin(-self.confidence, math.inf)
        return comparison.margin(-math.inf, self.confidence)
