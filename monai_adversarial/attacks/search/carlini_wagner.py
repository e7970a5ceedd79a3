# SPDX-License-Identifier: Apache-2.0
"""Carlini and Wagner: Adam in tanh space, with a searched weight (L2) or a shrinking bound (L-infinity)."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun
from monai_adversarial.attacks.search.trade_off import TradeOffRun
from monai_adversarial.utils.validation import check_count, check_fraction, check_positive

__all__ = ["CarliniWagnerLinfSearch", "CarliniWagnerSearch", "TanhAdam"]

#: by how much the tanh box is wider than the range of values, as a share of its half-width: a voxel at the very edge,
#: such as air, would have no gradient and never move
MARGIN = 0.05
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class TanhAdam:
    """Adam on the variable whose tanh lies within a box.

    Args:
        room: lowest and highest change of each voxel.
        rate: the learning rate.
    """

    def __init__(self, room: tuple[torch.Tensor, torch.Tensor], rate: float) -> None:
        low, high = room
        self.middle, self.half = (low + high) / 2, (high - low) / 2 * (1 + MARGIN)
        self.rate = rate
        self.reset()

    def reset(self) -> None:
        """Begin at the clean image."""
        tiny = torch.finfo(self.half.dtype).tiny
        self.variable = torch.atanh(torch.where(self.half > 0, -self.middle / self.half.clamp_min(tiny), 0.0))
        self.first = torch.zeros_like(self.half)
        self.second = torch.zeros_like(self.half)
        self.count = 0

    def step(self, slope: torch.Tensor) -> torch.Tensor:
        """The next change, from the gradient at the last one."""
        self.count += 1
        inner = slope * self.half * (1 - torch.tanh(self.variable).square())
        self.first = BETA1 * self.first + (1 - BETA1) * inner
        self.second = BETA2 * self.second + (1 - BETA2) * inner.square()
        mean, size = self.first / (1 - BETA1**self.count), self.second / (1 - BETA2**self.count)
        self.variable = self.variable - self.rate * mean / (size.sqrt() + EPSILON)
        return self.middle + self.half * torch.tanh(self.variable)


class CarliniWagnerSearch(MinimalSearch):
    """The attack of Carlini and Wagner in L2: ``|noise|^2 + c * sum of hinges``, minimized by Adam in tanh space, with
    ``c`` searched by halving for each sample.

    >>> from monai_adversarial.attacks import CarliniWagnerSearch, MinimalNoise, MinimalNormAttack
    >>> MinimalNormAttack(MinimalNoise("l2"), search=CarliniWagnerSearch(weights=3), steps=30).steps
    30
    >>> from monai_adversarial.data.example import example_case
    >>> MinimalNormAttack(MinimalNoise("l1"), search=CarliniWagnerSearch())(*example_case(16))
    Traceback (most recent call last):
    TypeError: CarliniWagnerSearch needs MinimalNoise with a norm among 'l2', got MinimalNoise with norm='l1'.

    Args:
        learning_rate: of Adam in tanh space, 0.01 in the paper.
        weight: the first ``c``, 0.001 in the paper.
        weights: how many of them are tried, 9 in the paper; they share the steps.

    Source: Carlini and Wagner, "Towards evaluating the robustness of neural networks", 2017, sections V and VI.A. The
    tanh box is 5 % wider than the range of values, so that voxels at its edge can move; the range cuts afterwards.
    """

    norms = ("l2",)

    def __init__(self, learning_rate: float = 0.01, weight: float = 1e-3, weights: int = 9) -> None:
        self.learning_rate = check_positive("learning_rate", learning_rate)
        self.weight = check_positive("weight", weight)
        self.weights = check_count("weights", weights)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _CarliniWagnerRun(self, bound, steps)


class _CarliniWagnerRun(TradeOffRun):
    def __init__(self, search: CarliniWagnerSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps, search.weight, search.weights)
        self.adam = TanhAdam(self.room, search.learning_rate)

    def restart(self, noise: torch.Tensor) -> None:
        self.adam.reset()

    def descend(self, noise: torch.Tensor, slope: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        return self.adam.step(slope)


class CarliniWagnerLinfSearch(MinimalSearch):
    """The attack of Carlini and Wagner in L-infinity: ``sum of (|noise| - bound)+ + c * sum of hinges``.

    The bound of a sample falls to ``shrink`` times its largest change whenever it succeeds, and ``c`` doubles after
    ``patience`` steps without a success; each goes on from where the last one ended.

    >>> from monai_adversarial.attacks import CarliniWagnerLinfSearch, MinimalNoise, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> search = CarliniWagnerLinfSearch(learning_rate=0.05, weight=0.1)
    >>> result = MinimalNormAttack(MinimalNoise("linf", units="HU"), search=search, steps=20)(*example_case(16))
    >>> bool(result.success)
    True

    Args:
        learning_rate: of Adam in tanh space, 0.005 in the authors' code.
        weight: the first ``c``, 1e-5 there.
        patience: steps with one ``c``; None for a twentieth of all steps, because c doubles about twenty times from
            1e-5 to the authors' largest, 20.
        shrink: 0.9 in the paper.
        factor: of ``c``, 2 in the paper.

    Source: as of :class:`CarliniWagnerSearch`, section VI.C.
    """

    norms = ("linf",)

    def __init__(
        self,
        learning_rate: float = 5e-3,
        weight: float = 1e-5,
        patience: int | None = None,
        shrink: float = 0.9,
        factor: float = 2.0,
    ) -> None:
        self.learning_rate = check_positive("learning_rate", learning_rate)
        self.weight = check_positive("weight", weight)
        self.patience = None if patience is None else check_count("patience", patience)
        self.shrink = check_fraction("shrink", shrink)
        self.factor = check_positive("factor", factor)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _CarliniWagnerLinfRun(self, bound, steps)


class _CarliniWagnerLinfRun(MinimalSearchRun):
    def __init__(self, search: CarliniWagnerLinfSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        self.patience = search.patience or max(1, steps // 20)
        self.adam = TanhAdam(self.room, search.learning_rate)
        image = bound.scene.image
        self.voxels = image[0, 0].numel()
        self.state["weight"] = image.new_full((image.shape[0],), search.weight)
        self.state["bound"] = torch.ones_like(self.state["weight"])
        self.state["waited"] = torch.zeros_like(self.state["weight"])

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        state, search = self.state, self.search
        smaller = torch.minimum(state["bound"], search.shrink * self.length(noise))
        state["bound"] = torch.where(success, smaller, state["bound"])
        state["waited"] = torch.where(success, 0.0, state["waited"] + 1)
        enough = state["waited"] >= self.patience
        state["weight"] = torch.where(enough, state["weight"] * search.factor, state["weight"])
        state["waited"] = torch.where(enough, 0.0, state["waited"])
        beyond = (noise.abs() > per_sample(state["bound"], noise)) * noise.sign()
        return self.adam.step(beyond - per_sample(state["weight"] * self.voxels, noise) * gradient)
