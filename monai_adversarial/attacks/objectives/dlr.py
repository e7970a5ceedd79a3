# SPDX-License-Identifier: Apache-2.0
"""Difference of logits ratio: a margin that no scaling of the logits changes."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.objectives.base import Progress, VoxelwiseObjective
from monai_adversarial.attacks.objectives.comparison import Comparison

__all__ = ["DLR"]


class DLR(VoxelwiseObjective):
    """Highest logit of the other classes minus the logit of the reference class, divided by the distance between the
    highest and the third highest logit; the mean over the decisions of a sample.

    Above zero a decision is wrong. For softmax with at least three classes. A targeted attack divides by the distance
    between the highest logit and the mean of the third and fourth highest, where there are four classes.

    >>> from monai_adversarial.attacks import DLR, PGD
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> bool(PGD(16, units="HU", objective=DLR())(model, image, label).success)
    True

    Raises:
        ValueError: in ``value``, for sigmoid and for too few classes.

    Source: Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks, ICML 2020. The mean over voxels is ours, and so is the numerator of the targeted form: the strongest class
    beside the wanted one, where the paper takes the true one.
    """

    def elements(self, comparison: Comparison, progress: Progress, targeted: bool) -> torch.Tensor:
        last = 4 if targeted and comparison.target.classes > 3 else 3
        return comparison.margin(-math.inf, math.inf) / comparison.logit_spread(3, last)
