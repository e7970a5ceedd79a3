# SPDX-License-Identifier: Apache-2.0
"""Differential evolution by queries."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.search.base import Search, SearchRun
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["DifferentialEvolution"]


class DifferentialEvolution(Search):
    """A population of random draws; each query tries a member's successor, ``a + factor * (b - c)`` of three other
    members, and keeps it where the objective is not lower.

    The first ``population`` queries ask about the draws. There is no crossover, as in the one-pixel attack; with a
    factor of 0.5 and members that live on, one generation is ``population`` queries.

    >>> from monai_adversarial.attacks import Attack, Cubes, DifferentialEvolution
    >>> from monai_adversarial.data.example import example_case
    >>> attack = Attack(Cubes(2, edge=3, units="HU"), search=DifferentialEvolution(population=6), steps=24)
    >>> result = attack(*example_case(16))
    >>> result.queries, bool(result.objective == result.objective_history.max())
    (26, True)

    Args:
        population: members, 400 in the one-pixel attack; at least 4.
        factor: 0.5 there.

    Source: Storn and Price, "Differential evolution", 1997; Su, Vargas, Sakurai, "One pixel attack for fooling deep
    neural networks", 2019.
    """

    uses_gradients = False

    def __init__(self, population: int = 400, factor: float = 0.5) -> None:
        self.population = check_count("population", population, minimum=4)
        self.factor = check_positive("factor", factor)

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        return _DifferentialEvolutionRun(self, bound, steps)


class _DifferentialEvolutionRun(SearchRun):
    def __init__(self, search: DifferentialEvolution, bound: BoundPerturbation, steps: int) -> None:
        super().__init__(bound, steps)
        self.size, self.factor = search.population, search.factor

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        best = self.best(parameters, values)
        self._keep(parameters, values, step)
        if step == self.steps - 1:
            return best
        return self._draw() if step + 1 < self.size else self._successor((step + 1) % self.size)

    def _draw(self) -> Parameters:
        return self.bound.random(self.generators)

    def _keep(self, parameters: Parameters, values: torch.Tensor, step: int) -> None:
        """Member ``step``, or a successor that is not worse than its member."""
        if step == 0:
            self.points["members"] = tuple(
                part.unsqueeze(1).expand(-1, self.size, *part.shape[1:]).clone() for part in parameters
            )
            self.state["fitness"] = values[:, None].expand(-1, self.size).clone()
            return
        member = step % self.size
        better = values >= self.state["fitness"][:, member]
        if step < self.size:
            better = torch.ones_like(better)
        self.state["fitness"][:, member] = torch.where(better, values, self.state["fitness"][:, member])
        for part, new in zip(self.points["members"], parameters, strict=True):
            part[:, member] = torch.where(per_sample(better, new), new, part[:, member])

    def _successor(self, member: int) -> Parameters:
        first = self.points["members"][0]
        rows = torch.arange(first.shape[0], device=first.device)
        keys = torch.stack(
            [torch.rand(self.size, generator=generator, device=first.device) for generator in self.generators]
        )
        keys[:, member] = -1.0  # not among the three
        chosen = keys.topk(3, dim=1).indices
        return self.bound.project(
            tuple(
                part[rows, chosen[:, 0]] + self.factor * (part[rows, chosen[:, 1]] - part[rows, chosen[:, 2]])
                for part in self.points["members"]
            )
        )
