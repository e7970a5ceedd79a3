# SPDX-License-Identifier: Apache-2.0
"""Exclusive classes against soft references: labels that move with the image."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.objectives.comparison import ClassSums, Comparison
from monai_adversarial.attacks.objectives.target import Target

__all__ = ["SoftSoftmax", "entropy_term"]


def entropy_term(values: torch.Tensor) -> torch.Tensor:
    """``values * log(values)`` with a finite gradient at zero, where moved labels often are."""
    return values * (values + torch.finfo(values.dtype).eps).log()


class SoftSoftmax(Comparison):
    """Softmax against probabilities; the gradient flows into both, and into the region's weights.

    A voxel belongs to a class as far as its reference says: the formulas are linear in the reference wherever those
    for hard labels pick a class, and equal to them for one-hot references.
    """

    def __init__(self, logits: torch.Tensor, target: Target) -> None:
        self.logits, self.target = logits, target
        self.reference = target.one_hot(logits.dtype)
        self.region = target.region(logits.dtype)
        self._log_probabilities: torch.Tensor | None = None

    @property
    def log_probabilities(self) -> torch.Tensor:
        """(batch, class, spatial...), computed once."""
        if self._log_probabilities is None:
            self._log_probabilities = self.logits.log_softmax(dim=1)
        return self._log_probabilities

    def cross_entropy(self) -> torch.Tensor:
        return -(self.reference * self.log_probabilities).sum(dim=1, keepdim=True)

    @torch.no_grad()
    def correct(self) -> torch.Tensor:
        # much faster on the CPU than two argmax over the class dimension
        likely = self.reference == self.reference.amax(dim=1, keepdim=True)
        return (likely & (self.logits == self.logits.amax(dim=1, keepdim=True))).any(dim=1, keepdim=True)

    def cosine(self) -> torch.Tensor:
        probabilities, reference = self.log_probabilities.detach().exp(), self.reference.detach()
        lengths = probabilities.square().sum(dim=1, keepdim=True) * reference.square().sum(dim=1, keepdim=True)
        product = (probabilities * reference).sum(dim=1, keepdim=True)
        return product / lengths.sqrt().clamp_min(torch.finfo(product.dtype).tiny)

    def jensen_shannon(self) -> torch.Tensor:
        probabilities = self.log_probabilities.exp()
        middle = entropy_term(0.5 * (probabilities + self.reference))
        ends = 0.5 * (probabilities * self.log_probabilities + entropy_term(self.reference))
        return (ends - middle).sum(dim=1, keepdim=True)

    def margin(self, lowest: float, highest: float) -> torch.Tensor:
        first, where = self.logits.max(dim=1, keepdim=True)
        second = self.logits.scatter(1, where, -math.inf).amax(dim=1, keepdim=True)
        numbers = torch.arange(self.target.classes, device=where.device).view(1, -1, *([1] * (where.ndim - 2)))
        margins = (torch.where(numbers == where, second, first) - self.logits).clamp(lowest, highest)
        return (self.reference * margins).sum(dim=1, keepdim=True)

    def class_sums(self) -> ClassSums:
        probabilities = self.log_probabilities.exp()
        reference = self.reference
        if self.region is not None:
            reference = reference * self.region.unsqueeze(1)
        intersection = (probabilities * reference).flatten(2).sum(dim=2)
        if self.region is not None:
            probabilities = probabilities * self.region.unsqueeze(1)
        sums = self._reference_sums(reference)
        return ClassSums(intersection, probabilities.flatten(2).sum(dim=2), sums)

    @torch.no_grad()
    def decision_sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        decided = (self.logits == self.logits.amax(dim=1, keepdim=True)).to(self.logits.dtype)
        if self.region is not None:
            decided = decided * self.region.unsqueeze(1)
        return (decided * self.reference).flatten(2).sum(dim=2), decided.flatten(2).sum(dim=2)

    def element_weights(self, balanced: bool) -> torch.Tensor | None:
        chosen = self.target.chosen
        if not balanced and chosen is None and self.region is None:
            return None
        return self.target.constant(
            ("element_weights", balanced, self.logits.dtype), lambda: self._element_weights(balanced)
        )

    def _element_weights(self, balanced: bool) -> torch.Tensor:
        reference, chosen = self.reference, self.target.chosen
        region = None if self.region is None else self.region.unsqueeze(1)
        least = torch.finfo(reference.dtype).eps
        if not balanced and chosen is None:
            assert region is not None
            total = self._region_sum(region, region.dtype)
            return region / total.clamp_min(least).view(-1, *([1] * (region.ndim - 1)))
        sums = self._reference_sums(reference if region is None else reference * region)
        if chosen is not None:
            reference = reference.index_select(1, self.target.chosen_index())
            sums = sums.index_select(1, self.target.chosen_index())
        if balanced:
            present = (sums > least).to(sums.dtype)
            shares = present / (sums.clamp_min(least) * present.sum(dim=1, keepdim=True).clamp_min(1))
            weights = (reference * shares.view(*shares.shape, *([1] * (reference.ndim - 2)))).sum(dim=1, keepdim=True)
        else:
            total = sums.sum(dim=1).clamp_min(least)
            weights = reference.sum(dim=1, keepdim=True) / total.view(-1, *([1] * (reference.ndim - 1)))
        return weights if region is None else weights * region
