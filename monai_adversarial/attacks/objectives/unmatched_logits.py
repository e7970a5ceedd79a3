# SPDX-License-Identifier: Apache-2.0
"""Logits of the wanted class where the prediction is not yet the wanted one: the objective of ASMA."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Parts, Progress
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.overlap_counts import mean_iou, overlap_counts
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.utils.validation import check_count, check_fraction

__all__ = ["UnmatchedLogits"]


class UnmatchedLogits(AdditiveObjective):
    """Sum of the wanted class's logits over the voxels that are not yet predicted as wanted; for targeted attacks.

    With sigmoid the sum is over the channels of these voxels: the logit where the channel is wanted, its negative where
    it is not. Voxels that are as wanted pull no more. Points are compared by their mean IoU with the wanted
    segmentation, and an IoU of ``iou_goal`` is the success.

    Args:
        iou_goal: least mean IoU of a success, 0 to 1.
        organs: the classes (with sigmoid the channels) of the mean IoU; None for all but the background. Logits are
            summed over all voxels in any case: those that shall become background count, too.

    Raises:
        ValueError: for a goal outside 0 to 1, and in an attack that is not targeted.

    Example:
        >>> from monai_adversarial.attacks import PGD, UnmatchedLogits
        >>> from monai_adversarial.attacks.targets import dilated_organ
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> attack = PGD(20, units="HU", objective=UnmatchedLogits(organs=(1,)), targeted=True)
        >>> result = attack(model, image, dilated_organ(label, 1, 4.0), truth=label)
        >>> bool(result.iou > result.clean_iou)
        True

    Survey entry: A08 (adapted).
    Source: Ozbulak, Van Messem and De Neve, Impact of Adversarial Examples on Deep Learning Models for Biomedical Image
    Segmentation, MICCAI 2019. Sigmoid outputs, the choice of organs and the goal are ours.
    """

    comparable = False

    def __init__(self, iou_goal: float = 0.9, organs: Sequence[int] | None = None) -> None:
        self.iou_goal = check_fraction("iou_goal", iou_goal)
        self.organs = None if organs is None else tuple(check_count("organs", organ, minimum=0) for organ in organs)

    @property
    def success_rule(self) -> str:  # type: ignore[override]
        """The goal in words."""
        return f"mean IoU with the wanted segmentation of at least {self.iou_goal:g}"

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """The target itself, with a warning where the clean prediction meets the goal: the best change is none then."""
        found = mean_iou(overlap_counts(clean.prediction, target), target, self.organs).tolist()
        for sample, iou in enumerate(found):
            if iou >= self.iou_goal:
                warnings.warn(
                    f"iou_goal {self.iou_goal:g} is met by the clean prediction of sample {sample}, whose IoU is "
                    f"{iou:.3g}: name the organs= that shall change, or raise the goal.",
                    stacklevel=7,
                )
        return target

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        if not targeted:
            raise ValueError("targeted must be True with UnmatchedLogits: its label is the wanted segmentation.")
        region = target.region(logits.dtype)
        prediction = hard_prediction(logits.detach(), target.activation)
        if target.activation == "sigmoid":
            wanted = target.one_hot(logits.dtype) > 0.5
            toward = torch.where(wanted, logits, -logits) * ((prediction > 0) != wanted)
            if region is not None:
                toward = toward * region.unsqueeze(1)
        else:
            index = target.one_hot().max(dim=1).indices if target.index is None else target.index
            index = index.long().unsqueeze(1)
            toward = logits.gather(1, index) * (prediction != index)
            if region is not None:
                toward = toward * region.unsqueeze(1)
        return (toward.flatten(1).sum(dim=1), *overlap_counts(prediction, target))

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """A targeted attack minimizes: the negative sum, and the negative IoU."""
        return -parts[0], -mean_iou(parts[1:], target, self.organs).to(parts[0].dtype)

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        """Nothing is unmatched."""
        counts = target.reference_sums(torch.float64)
        return torch.zeros(counts.shape[0], dtype=dtype, device=counts.device), counts, counts, counts

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor:
        """Whether the mean IoU has reached the goal."""
        return mean_iou(overlap_counts(prediction, target), target, self.organs) >= self.iou_goal
