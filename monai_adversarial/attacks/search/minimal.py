# SPDX-License-Identifier: Apache-2.0
"""What searches for the smallest noise have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.perturbations.minimal_base import BoundMinimal
from monai_adversarial.attacks.search.base import Search, SearchRun

#: least guess of what is left of an objective
LEAST_RISE = 0.1

__all__ = ["MinimalSearch", "MinimalSearchRun", "cosine", "unit"]


def cosine(first: float, last: float, done: float) -> float:
    """Cosine annealing.

    >>> from monai_adversarial.attacks.search.minimal import cosine
    >>> cosine(1.0, 0.5, 0.0), cosine(1.0, 0.5, 1.0)
    (1.0, 0.5)
    """
    return last + (first - last) * (1.0 + math.cos(math.pi * done)) / 2.0


def unit(noise: torch.Tensor) -> torch.Tensor:
    """Each sample with a Euclidean length of one; zeros stay zeros."""
    length = noise.flatten(1).norm(dim=1).clamp_min(torch.finfo(noise.dtype).tiny)
    return noise / per_sample(length, noise)


class MinimalSearch(Search):
    """A search that makes a norm small and is told whether each point succeeds.

    Papers count in images from 0 to 1: their 1 is the span of the image here (``BoundMinimalNoise.span``), the width of
    the intensity window.

    >>> from monai_adversarial.attacks import MinimalNoise, MinimalNormAttack, MinimalSearch, MinimalSearchRun
    >>> from monai_adversarial.data.example import example_case
    >>> class Growing(MinimalSearchRun):
    ...     def move(self, noise, gradient, values, success, step):
    ...         longer = noise + 0.02 * gradient.sign()
    ...         return noise if success.all() else longer
    >>> class Grow(MinimalSearch):
    ...     norms = ("linf",)
    ...     def run(self, bound, steps):
    ...         return Growing(bound, steps)
    >>> attack = MinimalNormAttack(MinimalNoise("linf", units="HU"), search=Grow(), steps=6)
    >>> bool(attack(*example_case(16)).success)
    True

    Attributes:
        norms: that it can make small.
        needs: the perturbation that has them.
    """

    norms: ClassVar[tuple[str, ...]] = ("linf", "l2", "l1", "l0")
    needs: ClassVar[str] = "MinimalNoise"

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch.

        Raises:
            TypeError: for a perturbation whose norm it cannot make small.
        """
        if not isinstance(bound, BoundMinimal) or bound.norm not in self.norms:
            given = type(bound).__name__.removeprefix("Bound")
            norm = f" with norm={bound.norm!r}" if isinstance(bound, BoundMinimal) else ""
            raise TypeError(
                f"{type(self).__name__} needs {self.needs} with a norm among {', '.join(map(repr, self.norms))}, got "
                f"{given}{norm}."
            )
        return self.run(bound, steps)

    @abstractmethod
    def run(self, bound: Any, steps: int) -> MinimalSearchRun:
        """The state of one run."""


class MinimalSearchRun(SearchRun):
    """One run; ``move`` counts in spans.

    >>> from monai_adversarial.attacks import MinimalNoise, MinimalNormAttack, MinimalSearch, MinimalSearchRun
    >>> from monai_adversarial.data.example import example_case
    >>> class Printing(MinimalSearchRun):
    ...     def move(self, noise, gradient, values, success, step):
    ...         smallest, norm = self.smallest(noise, success)
    ...         print(step, success.tolist(), norm.tolist())
    ...         return noise
    >>> class Still(MinimalSearch):
    ...     def run(self, bound, steps):
    ...         return Printing(bound, steps)
    >>> result = MinimalNormAttack(MinimalNoise("l2"), search=Still(), steps=2)(*example_case(16))
    0 [False] [inf]
    1 [False] [inf]
    """

    bound: BoundMinimalNoise

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        """The next point; see ``SearchRun.advance``.

        Raises:
            TypeError: where nobody says whether points succeed.
        """
        if self.found.success is None:
            raise TypeError("a search for minimal norms needs a MinimalNormAttack around it, got another attack.")
        span = self.bound.span
        gradient = gradients[0] * span if gradients else parameters[0]
        if self.bound.mask is not None:
            gradient = gradient * self.bound.mask
        moved = self.move(parameters[0] / span, gradient, self.found.values, self.found.success, step)
        return self.bound.project((moved * span,))

    @abstractmethod
    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        """The next noise.

        Args:
            noise: where the others were taken, in spans, (batch, channel, spatial...).
            gradient: of the objective, which is maximized, per span; zero where a voxel must not change.
            values: of the objective, (batch,); those of a margin are below zero before it is crossed.
            success: boolean (batch,).
            step: from 0 to ``steps`` - 1.
        """

    def length(self, noise: torch.Tensor) -> torch.Tensor:
        """The norm in spans, (batch,)."""
        return self.bound.length(noise)

    @property
    def room(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest change of each voxel, in spans."""
        down, up = self.bound.room
        return down / self.bound.span, up / self.bound.span

    def smallest(self, noise: torch.Tensor, success: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The smallest noise that succeeded so far and its norm, infinite where none did; to be called each step."""
        norm = torch.where(success, self.length(noise), torch.inf)
        if "norm" not in self.state:
            self.state["norm"], self.points["smallest"] = norm, (noise,)
        better = norm < self.state["norm"]
        self.state["norm"] = torch.where(better, norm, self.state["norm"])
        self.points["smallest"] = (torch.where(per_sample(better, noise), noise, self.points["smallest"][0]),)
        return self.points["smallest"][0], self.state["norm"]

    def gap(self, values: torch.Tensor, success: torch.Tensor) -> torch.Tensor:
        """By how much the objective has to rise to be at the boundary, (batch,); below zero beyond it. To be called
        each step.

        As soon as points of both kinds are known, the boundary lies halfway between the objective of the latest success
        and of the latest failure. Before, it is a guess: zero for an objective below zero, such as a margin, and half
        of what is left to one for others, such as a Dice.
        """
        state = self.state
        if "below" not in state:
            state["below"], state["above"] = (torch.full_like(values, torch.nan) for _ in range(2))
        state["below"] = torch.where(success, state["below"], values)
        state["above"] = torch.where(success, values, state["above"])
        middle = (state["below"] + state["above"]) / 2
        guess = torch.where(values < 0, -values, 0.5 * (1.0 - values).clamp_min(LEAST_RISE))
        return torch.where(middle.isnan(), guess, middle - values)
