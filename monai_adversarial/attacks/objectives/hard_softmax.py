# SPDX-License-Identifier: Apache-2.0
"""Exclusive classes against class indices: the usual case, and the fast one."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.objectives.comparison import ClassSums, Comparison
from monai_adversarial.attacks.objectives.softmax_statistics import SoftmaxStatistics, class_sums, softmax_statistics
from monai_adversarial.attacks.objectives.target import Target

__all__ = ["HardSoftmax"]


class HardSoftmax(Comparison):
    """Softmax against hard labels."""

    def __init__(self, logits: torch.Tensor, target: Target, totals: bool = False) -> None:
        assert target.index is not None
        self.logits, self.target, self.index = logits, target, target.index.long()
        self.region = target.region(logits.dtype)
        self._with_totals = totals
        self._statistics: SoftmaxStatistics | None = None

    @property
    def statistics(self) -> SoftmaxStatistics:
        """Computed when first needed: the margin does without."""
        if self._statistics is None:
            self._statistics = softmax_statistics(self.logits, self.index, self.region, self._with_totals)
        return self._statistics

    def cross_entropy(self) -> torch.Tensor:
        return -self.statistics.log_own.unsqueeze(1)

    def correct(self) -> torch.Tensor:
        return self.statistics.correct.unsqueeze(1)

    def cosine(self) -> torch.Tensor:
        statistics = self.statistics  # with its graph, which others use too
        with torch.no_grad():
            squares = statistics.probabilities.square().sum(dim=1)
            return (statistics.log_own.exp() / squares.sqrt_()).unsqueeze(1)

    def jensen_shannon(self) -> torch.Tensor:
        # against a one-hot reference only its own probability p is left: log 2 + (p log p - (1 + p) log(1 + p)) / 2
        log_own = self.statistics.log_own
        own = log_own.exp()
        return (math.log(2) + 0.5 * (own * log_own - (1 + own) * own.log1p())).unsqueeze(1)

    def margin(self, lowest: float, highest: float) -> torch.Tensor:
        where = self.index.unsqueeze(1)
        others = self.logits.scatter(1, where, -math.inf).amax(dim=1, keepdim=True)
        return (others - self.logits.gather(1, where)).clamp(lowest, highest)

    def class_sums(self) -> ClassSums:
        own = self.statistics.log_own.exp()
        intersection = class_sums(own if self.region is None else own * self.region, self.index, self.target.classes)
        totals = self.statistics.totals
        if totals is None:
            raise RuntimeError("class_sums needs a comparison that was made with totals=True.")
        return ClassSums(intersection, totals, self.target.reference_sums(self.logits.dtype))

    @torch.no_grad()
    def decision_sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        correct = self.statistics.correct.to(self.logits.dtype)
        decided = self.logits == self.logits.amax(dim=1, keepdim=True)
        if self.region is None:
            predicted = decided.flatten(2).sum(dim=2, dtype=self.logits.dtype)
        else:
            correct, predicted = correct * self.region, (decided * self.region.unsqueeze(1)).flatten(2).sum(dim=2)
        return class_sums(correct, self.index, self.target.classes), predicted

    def element_weights(self, balanced: bool) -> torch.Tensor | None:
        chosen = self.target.chosen
        if not balanced and chosen is None and self.region is None:
            return None

        def make() -> torch.Tensor:
            sums = self.target.reference_sums(self.logits.dtype)
            least = torch.finfo(sums.dtype).eps
            counts = torch.zeros_like(sums).index_fill_(1, self.target.chosen_index(), 1)
            if balanced:
                counts = counts * (sums > least)
                shares = counts / (sums.clamp_min(least) * counts.sum(dim=1, keepdim=True).clamp_min(1))
            else:
                shares = counts / (sums * counts).sum(dim=1, keepdim=True).clamp_min(least)
            weights = shares.gather(1, self.index.flatten(1)).view(self.index.shape)
            return (weights if self.region is None else weights * self.region).unsqueeze(1)

        return self.target.constant(("element_weights", balanced, self.logits.dtype), make)
