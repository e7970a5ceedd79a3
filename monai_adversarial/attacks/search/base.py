# SPDX-License-Identifier: Apache-2.0
"""How the attacker moves through the parameters of a perturbation."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters

__all__ = ["Search", "SearchRun", "steepest_direction"]


def steepest_direction(gradient: torch.Tensor, norm: str) -> torch.Tensor:
    """The direction of unit size that raises a linear function most: signs for ``"linf"``, the unit gradient per
    sample for ``"l2"``, that of each vector along dimension 1 for ``"vector"``."""
    if norm == "linf":
        return gradient.sign()
    if norm == "vector":
        return gradient / gradient.norm(dim=1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
    length = gradient.flatten(1).norm(dim=1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / length.view(-1, *([1] * (gradient.ndim - 1)))


class SearchRun(ABC):
    """One search on one batch.

    Attributes:
        state: numbers per sample, each (batch,).
        points: points in parameter space and gradients, each with a leading batch dimension.
    """

    def __init__(self, bound: BoundPerturbation, steps: int) -> None:
        self.bound, self.steps = bound, steps
        self.state: dict[str, torch.Tensor] = {}
        self.points: dict[str, Parameters] = {}

    @abstractmethod
    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        """The next feasible parameters.

        Args:
            parameters: where ``gradients`` and ``values`` were taken.
            gradients: of the objective, which is maximized.
            values: what steps may be compared by, per sample, (batch,): the objective itself where its values are
                comparable between steps.
            step: from 0 to ``steps`` - 1.
        """

    def select(self, indices: torch.Tensor, bound: BoundPerturbation) -> None:
        """Go on with some of the samples."""
        self.bound = bound
        self.state = {name: values.index_select(0, indices) for name, values in self.state.items()}
        self.points = {
            name: tuple(part.index_select(0, indices) for part in point) for name, point in self.points.items()
        }


class Search(ABC):
    """A search strategy; ``begin`` makes the state of one run."""

    @abstractmethod
    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
