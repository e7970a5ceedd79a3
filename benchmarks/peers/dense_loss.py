# SPDX-License-Identifier: Apache-2.0
"""A segmentation network as a two-class classifier, for libraries that know classifiers only."""

from __future__ import annotations

import math

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional

from benchmarks.peers.problem import LOSSES, Problem

__all__ = ["DenseLossClassifier"]


class DenseLossClassifier(nn.Module):
    """Logits of two classes such that cross-entropy with class 0 is the dense loss of the segmentation.

    The logits are (-L, log(1 - exp(-L))), so that the probabilities are exp(-L) and the rest: cross-entropy with class
    0 is L, and its gradient that of L. Nothing is lost but the library's view of single voxels.

    Args:
        problem: network, label and loss; the loss of each sample is a mean over its voxels.
        found: let every image count as adversarial, by adding log(2) and a little to L, which changes no gradient. For
            attacks that return their last adversarial point and would return the clean image otherwise.
        shape: of one image (channel, spatial...) for the network, where the library flattens it; None: as it comes.

    Raises:
        ValueError: for another loss.
    """

    def __init__(self, problem: Problem, found: bool = False, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        if problem.loss not in LOSSES:
            raise ValueError(f"loss must be one of {tuple(LOSSES)}, got {problem.loss!r}.")
        self.network, self.label, self.shape = problem.network, problem.label, shape
        self.offset = math.log(2) + 1e-3 if found else 0.0
        self.dice = DiceLoss(softmax=True, to_onehot_y=True, reduction="none") if problem.loss == "dice_ce" else None
        self.eval()

    def loss(self, image: torch.Tensor) -> torch.Tensor:
        """Dense loss of each sample (batch,)."""
        if len(image) != len(self.label):
            raise ValueError(f"the batch must have the {len(self.label)} samples of the label, got {len(image)}.")
        logits = self.network(image if self.shape is None else image.reshape(len(image), *self.shape))
        loss = functional.cross_entropy(logits, self.label[:, 0], reduction="none").flatten(1).mean(1)
        return loss if self.dice is None else loss + self.dice(logits, self.label).flatten(1).mean(1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, channel, spatial...) to logits (batch, 2)."""
        loss = self.loss(image) + self.offset
        return torch.stack((-loss, torch.log(-torch.expm1(-loss))), dim=1)

    def labels(self) -> torch.Tensor:
        """Class 0 for each sample (batch,), int64."""
        return torch.zeros(len(self.label), dtype=torch.int64, device=self.label.device)
