# SPDX-License-Identifier: Apache-2.0
"""The smallest norm as a sum: squared length against the objective, with a weight that is searched by halving."""

from __future__ import annotations

from abc import abstractmethod

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.minimal import MinimalSearchRun

__all__ = ["TradeOffRun"]

#: factor of a weight that is too small, as long as none is known that is large enough
TENFOLD = 10.0


class TradeOffRun(MinimalSearchRun):
    """Minimizes ``|noise|^2 - weight * voxels * objective`` again and again, each time from the clean image.

    A weight with which a sample succeeded is too large, one with which it did not is too small: the next one lies
    halfway between, or is ten times the last where none succeeded yet. The objective is a mean over voxels; times their
    number it is the sum that papers mean.

    Args:
        bound: the noise.
        steps: of all runs together.
        weight: the first one.
        runs: how many; each has ``steps // runs`` steps, the last one the rest.
    """

    def __init__(self, bound: BoundMinimalNoise, steps: int, weight: float, runs: int) -> None:
        super().__init__(bound, steps)
        image = bound.scene.image
        self.runs = min(runs, steps)
        self.each = steps // self.runs
        self.voxels = image[0, 0].numel()
        self.state["weight"] = image.new_full((image.shape[0],), weight)
        self.state["too_small"] = torch.zeros_like(self.state["weight"])
        self.state["enough"] = torch.full_like(self.state["weight"], torch.inf)
        self.state["succeeded"] = torch.zeros_like(self.state["weight"], dtype=torch.bool)

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        state = self.state
        state["succeeded"] = state["succeeded"] | success
        if step and step % self.each == 0 and step // self.each < self.runs:
            self._next_weight()
            self.restart(noise)
            return torch.zeros_like(noise)
        weight = state["weight"] * self.voxels
        total = noise.square().flatten(1).sum(dim=1) - weight * values
        slope = 2 * noise - per_sample(weight, noise) * gradient
        return self.descend(noise, slope, total)

    def _next_weight(self) -> None:
        state = self.state
        weight, done = state["weight"], state["succeeded"]
        state["enough"] = torch.where(done, torch.minimum(state["enough"], weight), state["enough"])
        state["too_small"] = torch.where(done, state["too_small"], torch.maximum(state["too_small"], weight))
        known = state["enough"].isfinite()
        state["weight"] = torch.where(known, (state["too_small"] + state["enough"]) / 2, weight * TENFOLD)
        state["succeeded"] = torch.zeros_like(done)

    @abstractmethod
    def restart(self, noise: torch.Tensor) -> None:
        """Forget what was learnt with another weight; called before the clean image is looked at again."""

    @abstractmethod
    def descend(self, noise: torch.Tensor, slope: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
        """The next noise.

        Args:
            noise: in spans.
            slope: gradient of what is minimized.
            total: its value, (batch,).
        """
