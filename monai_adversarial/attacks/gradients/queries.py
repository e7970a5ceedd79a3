# SPDX-License-Identifier: Apache-2.0
"""What gradients estimated by queries have in common: how many are asked in each step, and about which points."""

from __future__ import annotations

import copy
from abc import abstractmethod

import torch

from monai_adversarial.attacks.gradients.base import Evaluation, GradientEstimator, ObjectiveFunction
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["FlatParameters", "QueryGradient", "moves_for"]

# Streams of random numbers: restarts use 0, 1, 2, ..., controls start at a million, searches at two.
ESTIMATE_STREAM = 3_000_000


def moves_for(queries: int, samples: int) -> int:
    """Steps of an attack of ``queries`` queries, each of which asks about a point and ``samples`` others; the last one
    about a point alone."""
    return 1 + max((queries - 1) // (1 + samples), 1 if queries > 2 else 0)


class FlatParameters:
    """The parameters of a perturbation as one vector per sample, in units of their budget's radius.

    Args:
        bound: the perturbation, tied to a batch.
    """

    def __init__(self, bound: BoundPerturbation) -> None:
        zeros = bound.zeros()
        self.shapes = [tuple(zero.shape[1:]) for zero in zeros]
        self.sizes = [zero[0].numel() for zero in zeros]
        self.radii = torch.cat(
            [radius.expand_as(zero).flatten(1) for radius, zero in zip(bound.radii, zeros, strict=True)], dim=1
        ).float()
        self._inverse = torch.where(self.radii > 0, 1 / self.radii, 0.0)

    @property
    def size(self) -> int:
        """Numbers per sample."""
        return sum(self.sizes)

    def shares(self, parameters: Parameters) -> torch.Tensor:
        """Parameters as shares of the radius, (batch, size), float32; 0 where the radius is."""
        return torch.cat([part.flatten(1) for part in parameters], dim=1).float() * self._inverse

    def parameters(self, shares: torch.Tensor, like: Parameters) -> Parameters:
        """Shares of the radius as parameters."""
        return self._split(shares * self.radii, like)

    def gradients(self, slopes: torch.Tensor, like: Parameters) -> Parameters:
        """Slopes with respect to shares of the radius as gradients of the parameters."""
        return self._split(slopes * self._inverse, like)

    def _split(self, flat: torch.Tensor, like: Parameters) -> Parameters:
        parts = flat.split(self.sizes, dim=1)
        return tuple(part.reshape(len(part), *one.shape[1:]).to(one) for part, one in zip(parts, like, strict=True))


class QueryGradient(GradientEstimator):
    """Estimates a gradient from values of the objective at points around the current one.

    It is estimated in float32 in the parameters of any perturbation, in units of their budget's radius: noise, noise on
    a coarse grid (:class:`~monai_adversarial.attacks.CoarseGrid`), the coefficients of a bias field.

    >>> from monai_adversarial.attacks import PGD, NaturalEvolution, QueryGradient
    >>> from monai_adversarial.data.example import example_case
    >>> issubclass(NaturalEvolution, QueryGradient)
    True
    >>> result = PGD(16, "HU", steps=3, gradient=NaturalEvolution(samples=4))(*example_case(16))
    >>> result.backwards, result.queries == result.forwards
    (0, True)

    Args:
        samples: queries around the point of each step.
        radius: distance of the points asked about, as a share of the budget's radius.
        queries: of each sample and restart in all, which the steps share evenly; None for ``samples`` in each step. In
            each step the first query is about the point itself, and the last step asks that alone.

    Raises:
        ValueError: for an argument out of range; when a run begins with fewer than two queries for each step.
    """

    by_queries = True
    # Of a run, which ``begin`` makes a copy for.
    _bound: BoundPerturbation
    _flat: FlatParameters
    _generators: list[torch.Generator]
    _state: dict[str, torch.Tensor]
    _steps: int
    _step: int

    def __init__(self, samples: int = 20, radius: float = 0.5, queries: int | None = None) -> None:
        self.samples = check_count("samples", samples)
        self.radius = check_positive("radius", radius)
        self.queries = None if queries is None else check_count("queries", queries)

    def begin(self, bound: BoundPerturbation, steps: int, stream: int = 0) -> QueryGradient:
        """A run with random numbers and memory of its own."""
        if self.queries is not None and self.queries < 2 * steps - 1:
            raise ValueError(
                f"queries must be at least 2 for each step but the last, {2 * steps - 1} for steps={steps}, got "
                f"{self.queries}."
            )
        made = copy.copy(self)
        made._bound, made._steps, made._step = bound, steps, 0
        made._flat = FlatParameters(bound)
        made._generators = bound.scene.generators(ESTIMATE_STREAM + stream)
        made._state = {}
        return made

    def select(self, rows: torch.Tensor, bound: BoundPerturbation) -> None:
        """Go on with some of the samples."""
        self._bound, self._flat = bound, FlatParameters(bound)
        self._generators = [self._generators[row] for row in rows.tolist()]
        self._state = {name: values.index_select(0, rows) for name, values in self._state.items()}

    def asked_around(self, step: int, steps: int) -> int:
        """Queries of a step beside the one about its own point.

        Args:
            step: from 0.
            steps: of the run.
        """
        if step >= steps - 1:
            return 0
        if self.queries is None:
            return self.samples
        shared, moves = self.queries - 1, steps - 1
        return shared // moves + (step < shared % moves) - 1

    def passes(self, steps: int) -> tuple[int, int]:
        """All queries."""
        return sum(1 + self.asked_around(step, steps) for step in range(steps)), 0

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """Ask about the point, and about points around it."""
        with torch.no_grad():
            values, ranks, _ = function(parameters)
            asked = self.asked_around(self._step, self._steps)
            slopes = self._slopes(function, parameters, values.float(), asked)
            self._step += 1
        return Evaluation(values, ranks, self._flat.gradients(slopes, parameters), None, 1 + asked, 0)

    @abstractmethod
    def _slopes(
        self, function: ObjectiveFunction, parameters: Parameters, values: torch.Tensor, asked: int
    ) -> torch.Tensor:
        """Slopes with respect to shares of the radius, (batch, size), from ``asked`` queries.

        Args:
            function: the objective.
            parameters: the point.
            values: of the objective there, (batch,).
            asked: how often ``function`` is called.
        """

    def _ask(
        self, function: ObjectiveFunction, parameters: Parameters, change: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Value at a point beside the current one, (batch,), and how far that is away within the budget, (batch, size).

        Args:
            function: the objective.
            parameters: the point.
            change: what is added to it, in shares of the radius.
        """
        begin = self._flat.shares(parameters)
        moved = self._bound.project(self._flat.parameters(begin + change, parameters))
        return function(moved)[0].float(), self._flat.shares(moved) - begin

    def _draws(self, *shape: int, gaussian: bool = False) -> torch.Tensor:
        """Uniform numbers from 0 to 1, or Gaussian ones, (batch, *shape), of each sample's own generator."""
        radii = self._flat.radii
        drawn = torch.empty((len(self._generators), *shape), device=radii.device)
        for row, generator in zip(drawn, self._generators, strict=True):
            row.normal_(generator=generator) if gaussian else row.uniform_(generator=generator)
        return drawn
