# SPDX-License-Identifier: Apache-2.0
"""A gradient simulated by differential evolution."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.gradients.base import ObjectiveFunction
from monai_adversarial.attacks.gradients.queries import QueryGradient
from monai_adversarial.attacks.perturbations.base import Parameters

__all__ = ["SAGM"]

# How fast the mutation's factor follows what succeeds, and how far single factors are from it.
FOLLOW, SPREAD = 0.1, 0.1
# The best member of a population weighs e to this more than the worst one.
RANK_WEIGHT = 4.0


class SAGM(QueryGradient):
    """Self-adaptive approximated gradient: a population of points evolves beside the search, and shows it where to go.

    Every step makes one trial of each member (mutation about the best one, ``best + F (a - b)``, and crossover), asks
    about it, and keeps the better of both. The gradient is the mean of the members about their center, weighted by
    their ranks. The factor F follows those that succeeded.

    Source: the idea of Zhang et al., "Self-adaptive approximated gradient simulation" (2023), of which only the
    abstract could be read: an evolution that simulates the gradient, and momentum with a weight that adapts. All
    formulas are a reconstruction; adaptive factors as in JADE (Zhang, Sanderson 2009).

    Survey entry: A16 (reconstruction).

    Args:
        samples: members of the population, and queries of each step.
        radius: distance of the first members from the start, root mean square, as a share of the budget's radius.
        queries: see :class:`~monai_adversarial.attacks.gradients.queries.QueryGradient`; where a step has fewer than
            ``samples``, as many members get a trial.
        crossover: share of a member's numbers that its trial replaces.

    Raises:
        ValueError: for fewer than 4 samples or an argument out of range.

    Example:
        >>> from monai_adversarial.attacks import AdditiveNoise, Attack, CoarseGrid, SAGM, SelfAdaptiveMomentum
        >>> from monai_adversarial.data.example import example_case
        >>> noise = CoarseGrid(AdditiveNoise(16, units="HU"), grids=4)
        >>> attack = Attack(noise, search=SelfAdaptiveMomentum(), gradient=SAGM(samples=6), steps=3)
        >>> attack(*example_case()).forwards
        17
    """

    def __init__(
        self, samples: int = 20, radius: float = 0.5, queries: int | None = None, crossover: float = 0.9
    ) -> None:
        super().__init__(samples, radius, queries)
        if self.samples < 4:
            raise ValueError(f"samples must be at least 4, of which three make a mutation, got {samples}.")
        if not 0 < crossover <= 1:
            raise ValueError(f"crossover must be above 0 and at most 1, got {crossover!r}.")
        self.crossover = float(crossover)

    def _slopes(
        self, function: ObjectiveFunction, parameters: Parameters, values: torch.Tensor, asked: int
    ) -> torch.Tensor:
        state, count, size = self._state, self.samples, self._flat.size
        here = self._flat.shares(parameters)
        if not state:
            batch = len(here)
            state["members"] = here[:, None] + self.radius * self._draws(count, size, gaussian=True)
            state["fitness"] = torch.full((batch, count), -torch.inf, device=values.device)
            state["factor"] = torch.full((batch,), 0.5, device=values.device)
        # Those without a value yet come first, then a random order.
        order = (self._draws(count) + state["fitness"].isinf()).argsort(dim=1, descending=True)
        wins, winning = torch.zeros_like(values), torch.zeros_like(values)
        for number in range(asked):
            at = order[:, number % count]
            factor = (state["factor"] + SPREAD * self._draws(1, gaussian=True)[:, 0]).clamp(0.1, 1.0)
            value, change = self._ask(function, parameters, self._trial(at, factor) - here)
            known = state["fitness"].gather(1, at[:, None])[:, 0]
            better = value > known
            state["members"] = _with(state["members"], at, here + change, better)
            state["fitness"] = _with(state["fitness"], at, value, better)
            counted = better & ~known.isinf()
            wins, winning = wins + counted, winning + counted * factor
        mean = winning / wins.clamp_min(1)
        state["factor"] = torch.where(wins > 0, (1 - FOLLOW) * state["factor"] + FOLLOW * mean, state["factor"])
        return self._simulated()

    def _trial(self, at: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """A mutation about the best member, crossed with the member in question; itself where it has no value yet."""
        members, fitness = self._state["members"], self._state["fitness"]
        own = _pick(members, at)
        fresh = fitness.gather(1, at[:, None]).isinf()
        best = _pick(members, fitness.argmax(dim=1))
        pair = self._draws(members.shape[1]).argsort(dim=1)[:, :2]
        apart = _pick(members, pair[:, 0]) - _pick(members, pair[:, 1])
        mutant = best + factor[:, None] * apart
        trial = torch.where(self._draws(members.shape[2]) < self.crossover, mutant, own)
        return torch.where(fresh, own, trial)

    def _simulated(self) -> torch.Tensor:
        """Members about their center, weighted by a softmax of the ranks of their fitness."""
        members, fitness = self._state["members"], self._state["fitness"]
        known = ~fitness.isinf()
        ranks = fitness.argsort(dim=1).argsort(dim=1).float()
        weights = torch.where(known, ranks / ranks.shape[1] * RANK_WEIGHT, -torch.inf).softmax(dim=1).nan_to_num(0.0)
        even = known / known.sum(dim=1, keepdim=True).clamp_min(1)
        return torch.einsum("bn,bnd->bd", weights - even, members)


def _pick(members: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """One member of each sample."""
    return members[torch.arange(len(members), device=members.device), at]


def _with(table: torch.Tensor, at: torch.Tensor, new: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The table with some of the samples' rows replaced."""
    rows = torch.arange(len(table), device=table.device)
    changed = table.clone()
    changed[rows, at] = torch.where(where.view(-1, *[1] * (new.ndim - 1)), new, table[rows, at])
    return changed
