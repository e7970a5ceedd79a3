# SPDX-License-Identifier: Apache-2.0
"""Independent channels: each is a two-class decision of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from monai_adversarial.attacks.objectives.comparison import ClassSums, Comparison
from monai_adversarial.attacks.objectives.soft_softmax import entropy_term
from monai_adversarial.attacks.objectives.target import Target

__all__ = ["IndependentSigmoid"]


class IndependentSigmoid(Comparison):
    """Sigmoid against references from 0 to 1 in each channel; channels that do not count are left out."""

    def __init__(self, logits: torch.Tensor, target: Target) -> None:
        if target.chosen is not None:
            logits = logits.index_select(1, target.chosen_index())
        self.logits, self.target = logits, target.only_chosen()
        self.reference = self.target.one_hot(logits.dtype)
        region = self.target.region(logits.dtype)
        self.region = None if region is None else region.unsqueeze(1)

    def cross_entropy(self) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(self.logits, self.reference, reduction="none")

    @torch.no_grad()
    def correct(self) -> torch.Tensor:
        above = self.reference > 0.5
        return torch.where(above, self.logits >= 0, self.logits <= 0)

    @torch.no_grad()
    def cosine(self) -> torch.Tensor:
        yes, no = self.logits.sigmoid(), (-self.logits).sigmoid()
        lengths = (yes.square() + no.square()) * (self.reference.square() + (1 - self.reference).square())
        return (yes * self.reference + no * (1 - self.reference)) / lengths.sqrt()

    def jensen_shannon(self) -> torch.Tensor:
        log_yes, log_no = F.logsigmoid(self.logits), F.logsigmoid(-self.logits)
        yes, no = log_yes.exp(), log_no.exp()
        ends = yes * log_yes + no * log_no + entropy_term(self.reference) + entropy_term(1 - self.reference)
        middle = entropy_term(0.5 * (yes + self.reference)) + entropy_term(0.5 * (no + 1 - self.reference))
        return 0.5 * ends - middle

    def margin(self, lowest: float, highest: float) -> torch.Tensor:
        # linear in the reference, like cross-entropy: a reference of 1 wants the logit above 0, one of 0 below
        positive, negative = (-self.logits).clamp(lowest, highest), self.logits.clamp(lowest, highest)
        return self.reference * positive + (1 - self.reference) * negative

    def class_sums(self) -> ClassSums:
        probabilities, reference = self.logits.sigmoid(), self.reference
        if self.region is not None:
            reference = reference * self.region
        intersection = (probabilities * reference).flatten(2).sum(dim=2)
        if self.region is not None:
            probabilities = probabilities * self.region
        sums = self._reference_sums(reference)
        return ClassSums(intersection, probabilities.flatten(2).sum(dim=2), sums)

    @torch.no_grad()
    def decision_sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        decided = (self.logits >= 0).to(self.logits.dtype)
        if self.region is not None:
            decided = decided * self.region
        return (decided * self.reference).flatten(2).sum(dim=2), decided.flatten(2).sum(dim=2)

    def element_weights(self, balanced: bool) -> torch.Tensor | None:
        if not balanced and self.region is None:
            return None
        return self.target.constant(
            ("element_weights", balanced, self.logits.dtype), lambda: self._element_weights(balanced)
        )

    def _element_weights(self, balanced: bool) -> torch.Tensor:
        reference, region = self.reference, self.region
        least = torch.finfo(reference.dtype).eps
        if not balanced:
            assert region is not None
            total = self._region_sum(region, reference.dtype).clamp_min(least) * self.target.classes
            return region / total.view(-1, *([1] * (region.ndim - 1)))
        # every channel has two classes, its foreground and its background
        inside = reference if region is None else reference * region
        outside = 1 - reference if region is None else region - inside
        foreground_sums = self._reference_sums(inside)
        if self.target.whole is None:
            background_sums = outside.flatten(2).sum(dim=2)
        else:
            background_sums = self._region_sum(region, reference.dtype)[:, None] - foreground_sums
        sums = torch.cat([foreground_sums, background_sums], dim=1)
        present = (sums > least).to(sums.dtype)
        shares = present / (sums.clamp_min(least) * present.sum(dim=1, keepdim=True).clamp_min(1))
        foreground, background = shares.view(*shares.shape, *([1] * (reference.ndim - 2))).chunk(2, dim=1)
        return inside * foreground + outside * background
