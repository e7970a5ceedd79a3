# SPDX-License-Identifier: Apache-2.0
"""Logits against their reference, in the quantities that objectives are made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from monai_adversarial.attacks.objectives.target import Target

__all__ = ["ClassSums", "Comparison"]


class ClassSums(NamedTuple):
    """Weighted sums over the voxels, each (batch, class).

    Args:
        intersection: of probability times reference.
        predicted: of probability.
        reference: of the reference, in the whole volume where the target is a part of one.
    """

    intersection: torch.Tensor
    predicted: torch.Tensor
    reference: torch.Tensor


class Comparison(ABC):
    """Logits against a :class:`Target`, element by element.

    An element is one decision of the network: a voxel with softmax, a voxel of one channel with sigmoid. Elements are
    tensors (batch, groups, spatial...) with one group for softmax and one per channel for sigmoid. A one-channel
    sigmoid network is the same as a two-class softmax network with logits (0, z), and so are all quantities here.

    >>> import torch
    >>> from monai_adversarial.attacks.objectives import Target, compare
    >>> target = Target.from_label(torch.tensor([[[0, 1]]]), classes=2)
    >>> comparison = compare(torch.tensor([[[3.0, 2.0], [0.0, 0.0]]]), target)
    >>> comparison.margin(-10.0, 10.0).tolist(), comparison.average(torch.tensor([[[1.0, 3.0]]])).tolist()
    ([[[-3.0, 2.0]]], [2.0])
    """

    target: Target
    logits: torch.Tensor

    @abstractmethod
    def cross_entropy(self) -> torch.Tensor:
        """Cross-entropy of each element, in nats."""

    @abstractmethod
    def correct(self) -> torch.Tensor:
        """Boolean: the element's decision is the reference's (ties count as correct). No gradient."""

    @abstractmethod
    def cosine(self) -> torch.Tensor:
        """Cosine between the element's probabilities and its reference, from 0 to 1. No gradient."""

    @abstractmethod
    def jensen_shannon(self) -> torch.Tensor:
        """Jensen-Shannon divergence between the element's probabilities and its reference, from 0 to log 2."""

    @abstractmethod
    def margin(self, lowest: float, highest: float) -> torch.Tensor:
        """Highest logit of the other classes minus the reference class's, clipped; above 0 the decision is wrong."""

    def logit_spread(self, first: int, last: int) -> torch.Tensor:
        """Highest logit minus the mean of the ``first`` to the ``last`` highest (counted from 1) of each element.

        Raises:
            ValueError: for fewer classes, and for sigmoid, which has two in each element.
        """
        classes = self.target.classes if self.target.activation == "softmax" else 2
        if classes < last:
            raise ValueError(
                f"the DLR objective needs at least {last} exclusive classes (softmax), got {classes}: pass "
                "objective='margin'."
            )
        highest = self.logits.topk(last, dim=1).values
        rest = highest[:, first - 1 :].mean(dim=1, keepdim=True)
        return highest[:, :1] - rest + torch.finfo(highest.dtype).tiny

    @abstractmethod
    def class_sums(self) -> ClassSums:
        """What overlap measures such as Dice need, weighted by the target's region."""

    @abstractmethod
    def decision_sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``intersection`` and ``predicted`` of the decisions instead of the probabilities (a tie decides for all that
        share it), each (batch, class). No gradient."""

    @abstractmethod
    def element_weights(self, balanced: bool) -> torch.Tensor | None:
        """Weights that sum to one in each sample and broadcast to the elements; None where all are equal. Of a target
        that is a part of a volume, the part's share of them.

        Args:
            balanced: each class that occurs in the sample has the same total weight.
        """

    def _reference_sums(self, weighted: torch.Tensor) -> torch.Tensor:
        """Weighted sum of each class's soft reference, (batch, class); with its gradient where the reference moves."""
        if self.target.whole is not None:
            return self.target.reference_sums(weighted.dtype)
        return weighted.flatten(2).sum(dim=2)

    def _region_sum(self, region: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """Sum of the voxel weights, (batch,), with its gradient where they move; None is one for each voxel."""
        if self.target.whole is not None or region is None:
            return self.target.region_sum(dtype)
        return region.flatten(1).sum(dim=1)

    def average(self, values: torch.Tensor, balanced: bool = False) -> torch.Tensor:
        """Weighted mean of ``values`` (batch, groups, spatial...) in each sample: (batch,); of a part of a volume, what
        it contributes to the mean of the whole."""
        weights = self.element_weights(balanced)
        if weights is None and self.target.whole is None:
            return values.flatten(1).mean(dim=1)
        if weights is None:
            elements = self.target.region_sum(values.dtype) * values.shape[1]
            return values.flatten(1).sum(dim=1) / elements
        return (values * weights).flatten(1).sum(dim=1)
