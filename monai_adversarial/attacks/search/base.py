# SPDX-License-Identifier: Apache-2.0
"""How the attacker moves through the parameters of a perturbation."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from monai_adversarial.attacks.gradients.base import Evaluation
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.utils.calls import ShownAsCall

__all__ = ["Search", "SearchRun", "steepest_direction"]

# Streams of random numbers: restarts use 0, 1, 2, ..., controls start at a million.
SEARCH_STREAM = 2_000_000


def steepest_direction(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """The direction of unit size that raises a linear function most: signs for ``"linf"``, the unit gradient per
    sample for ``"l2"``, that of each vector along dimension 1 for ``"vector"``.

    >>> import torch
    >>> from monai_adversarial.attacks.search import steepest_direction
    >>> gradient = torch.tensor([[3.0, -4.0, 0.0]])
    >>> steepest_direction(gradient, "linf").tolist(), steepest_direction(gradient, "l2").norm().item()
    ([[1.0, -1.0, 0.0]], 1.0)
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "vector":
        return gradient / gradient.norm(dim=1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    length = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / length.view(-1, *([1] * (gradient.ndim - 1)))


class SearchRun(ABC):
    """One search on one batch.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, Search, SearchRun
    >>> from monai_adversarial.data.example import example_case
    >>> class Draws(SearchRun):
    ...     def advance(self, parameters, gradients, values, step):
    ...         best = self.best(parameters, values)
    ...         return best if step == self.steps - 1 else self.bound.random(self.generators)
    >>> class Guessing(Search):
    ...     uses_gradients = False
    ...     def begin(self, bound, steps):
    ...         return Draws(bound, steps)
    >>> result = Attack(AdditiveNoise(16, units="HU"), search=Guessing(), steps=5)(*example_case(16))
    >>> bool(result.objective == result.objective_history.max()), result.backwards
    (True, 0)

    Attributes:
        state: numbers per sample, each (batch,).
        points: points in parameter space and gradients, each with a leading batch dimension.
        stream: number of the random draw (restart, or iteration of a training); set when the run begins.
        found: all that is known of the point that ``advance`` is told of, for its duration.
    """

    found: Evaluation

    def __init__(self, bound: BoundPerturbation, steps: int) -> None:
        self.bound, self.steps = bound, steps
        self.state: dict[str, torch.Tensor] = {}
        self.points: dict[str, Parameters] = {}
        self.stream = 0
        self._generators: list[torch.Generator] | None = None

    @property
    def generators(self) -> list[torch.Generator]:
        """Random numbers of the search's own, one generator per sample: batch size, order and early stopping do not
        change what a sample draws."""
        if self._generators is None:
            self._generators = self.bound.scene.generators(SEARCH_STREAM + self.stream)
        return self._generators

    def first(self, parameters: Parameters) -> Parameters:
        """Where to begin: by default at ``parameters``, the random start inside the budget. Called once, before the
        first step of a run that begins at random."""
        return parameters

    def look_around(self, parameters: Parameters) -> Parameters:
        """Where to begin the first run of an attack that is scored, in place of ``parameters``, where ``first`` begins.
        Not called in training, whose starts shall differ from batch to batch."""
        return parameters

    @abstractmethod
    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        """The next feasible parameters.

        Args:
            parameters: where ``gradients`` and ``values`` were taken.
            gradients: of the objective, which is maximized; empty for a search that uses none.
            values: what steps may be compared by, per sample, (batch,): the objective itself where its values are
                comparable between steps.
            step: from 0 to ``steps`` - 1.
        """

    def preference(self, parameters: Parameters, values: torch.Tensor) -> torch.Tensor:
        """What the attack keeps the best point of each sample by, (batch,): the largest wins, of equals the later one.

        By default ``values``, as ``advance`` gets them. A search for small changes prefers the smallest of the points
        that are good enough.
        """
        return values

    def best(self, parameters: Parameters, values: torch.Tensor) -> Parameters:
        """The best parameters of each sample among all that were handed to this method."""
        if "best" not in self.points:
            self.points["best"], self.state["best"] = parameters, values
            return parameters
        better = values > self.state["best"]
        self.state["best"] = torch.where(better, values, self.state["best"])
        self.points["best"] = tuple(
            torch.where(per_sample(better, new), new, old)
            for new, old in zip(parameters, self.points["best"], strict=True)
        )
        return self.points["best"]

    def select(self, indices: torch.Tensor, bound: BoundPerturbation) -> None:
        """Go on with some of the samples."""
        self.bound = bound
        self.state = {name: values.index_select(0, indices) for name, values in self.state.items()}
        self.points = {
            name: tuple(part.index_select(0, indices) for part in point) for name, point in self.points.items()
        }
        if self._generators is not None:
            self._generators = [self._generators[row] for row in indices.tolist()]


class Search(ShownAsCall, ABC):
    """A search strategy; ``begin`` makes the state of one run.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, Search, SearchRun
    >>> from monai_adversarial.data.example import example_case
    >>> class Halves(SearchRun):
    ...     def advance(self, parameters, gradients, values, step):
    ...         radius = self.bound.radii[0] * 0.5**step
    ...         return self.bound.project((parameters[0] + radius * gradients[0].sign(),))
    >>> class Halving(Search):
    ...     def begin(self, bound, steps):
    ...         return Halves(bound, steps)
    >>> result = Attack(AdditiveNoise(16, units="HU"), search=Halving(), steps=4)(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Attributes:
        uses_gradients: False for searches by values alone: each step is then one forward pass, a query, and the network
            need not be differentiable. A query asks the model as it is deployed, in the scoring precision whatever the
            attack's is, about the finished image. What the last ``advance`` returns is scored: a search that returns
            the best point it has met there makes an attack of ``steps`` queries, of which that is the outcome.
        uses_decisions: the values of a search without gradients are 1 where the attack has succeeded and 0 elsewhere:
            all that a label shows. Of equal ones the latest is kept.
    """

    uses_gradients: bool = True
    uses_decisions: bool = False

    _shows_defaults = True

    @abstractmethod
    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
