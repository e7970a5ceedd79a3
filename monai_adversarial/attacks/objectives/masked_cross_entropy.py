# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy of the voxels that are still to be changed."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import Objective, Progress, VoxelwiseObjective
from monai_adversarial.attacks.objectives.comparison import Comparison
from monai_adversarial.attacks.objectives.cross_entropy import CrossEntropy

__all__ = ["BalancedMaskedCrossEntropy", "MaskedCrossEntropy"]


class MaskedCrossEntropy(VoxelwiseObjective):
    """Cross-entropy of the voxels that are still correct, divided by the number of all voxels ("mask-ce-avg" of SEA).

    Voxels that are wrong already get no more attention. In a targeted attack these are the voxels that already are as
    wanted.

    >>> import torch
    >>> from monai_adversarial.attacks.objectives import MaskedCrossEntropy, Progress, Target
    >>> target = Target.from_label(torch.tensor([[[1, 1]]]), classes=2)
    >>> logits = torch.tensor([[[9.0, 0.0], [0.0, 9.0]]]).requires_grad_()
    >>> MaskedCrossEntropy().value(logits, target, Progress(0, 1)).sum().backward()
    >>> (logits.grad != 0).any(dim=1).tolist()
    [[False, True]]

    Source: Croce, Singh and Hein, Towards Reliable Evaluation and Fast Training of Robust Semantic Segmentation
    Models, ECCV 2024.

    Survey entry: X04 (published).
    """

    comparable = False

    def for_classifier(self) -> Objective:
        """Cross-entropy: of one decision per image the weights are the same factor everywhere."""
        return CrossEntropy()

    def elements(self, comparison: Comparison, progress: Progress, targeted: bool) -> torch.Tensor:
        correct = comparison.correct()
        return comparison.cross_entropy() * (~correct if targeted else correct)


class BalancedMaskedCrossEntropy(MaskedCrossEntropy):
    """The same with equal weight for every class that occurs in the sample ("mask-ce-bal" of SEA).

    >>> from monai_adversarial.attacks import PGD, BalancedMaskedCrossEntropy
    >>> from monai_adversarial.data.example import example_case
    >>> result = PGD(16, "HU", steps=4, objective=BalancedMaskedCrossEntropy())(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Source: as :class:`MaskedCrossEntropy`.

    Survey entry: X04 (published).
    """

    def __init__(self) -> None:
        super().__init__(balanced=True)
