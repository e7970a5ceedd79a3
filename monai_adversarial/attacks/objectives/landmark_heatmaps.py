# SPDX-License-Identifier: Apache-2.0
"""Heatmaps of landmarks, those that are farthest from what is wanted first."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Parts, Progress
from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.target import Target

__all__ = ["LandmarkHeatmaps"]


class LandmarkHeatmaps(AdditiveObjective):
    """Sum over landmarks of the binary cross-entropy of their heatmaps, each weighted by its own share of the mean.

    For networks that answer one heatmap per landmark (sigmoid). The label is one mask per landmark
    (:func:`~monai_adversarial.attacks.targets.landmark_balls`). In a targeted attack the landmarks that shall move get
    masks elsewhere and the others those where they are: what lags behind is pulled hardest, and what is where it shall
    be hardly at all. Candidates are compared by the mean without these weights. ``adversarial_dice`` is that of the
    masks; distances in mm are those of :func:`~monai_adversarial.metrics.landmark_distance`.

    Raises:
        ValueError: for a network of exclusive classes (softmax).

    Example:
        >>> import torch
        >>> from monai_adversarial.attacks.objectives import LandmarkHeatmaps, Progress, Target
        >>> logits = torch.tensor([[[4.0, -4.0], [0.0, 0.0]]])  # the first landmark is found, of the second no word
        >>> target = Target.from_label(torch.tensor([[[1, 0], [1, 0]]]), classes=2, activation="sigmoid")
        >>> value, rank = LandmarkHeatmaps().value_and_rank(logits, target, Progress(0, 1))
        >>> round(float(rank), 3), round(float(value), 3)  # means of 0.018 and 0.693; the second counts almost alone
        (0.356, 1.352)

    Survey entry: X20 (adapted).

    Source: Yao et al., "Miss the point: targeted adversarial attack on multiple landmark detection", MICCAI 2020 (ATI-
    FGSM), weights as in their public code. Their network regresses offsets besides, which this one leaves out; masks
    instead of Gaussian heatmaps, 3D, and how candidates are compared are ours. Theirs are 300 sign steps of a twentieth
    of the radius; here any search moves.
    """

    comparable = False

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        if target.activation != "sigmoid":
            raise ValueError(
                "LandmarkHeatmaps needs one heatmap per landmark: pass activation='sigmoid' to AttackedModel, or "
                "another objective for exclusive classes."
            )
        loss, region = compare(logits, target).cross_entropy(), target.region(logits.dtype)
        if region is not None:
            loss = loss * region.unsqueeze(1)
        return (loss.flatten(2).sum(dim=2),)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """Means of the heatmaps that count, weighted by themselves and plain."""
        means = parts[0] / target.region_sum(parts[0].dtype)[:, None]
        rank = means.detach().mean(dim=1)
        share = means.detach() / rank.clamp_min(torch.finfo(means.dtype).tiny)[:, None]
        return (share * means).sum(dim=1), rank

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        """One nat in each voxel, so that all heatmaps begin with the same weight."""
        heatmaps = target.classes if target.chosen is None else len(target.chosen)
        return (target.region_sum(dtype)[:, None].expand(-1, heatmaps),)
