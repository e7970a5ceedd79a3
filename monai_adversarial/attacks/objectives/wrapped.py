# SPDX-License-Identifier: Apache-2.0
"""What objectives share that are another one with something added to it."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Objective, Parts, Progress
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.registry import get_objective
from monai_adversarial.attacks.objectives.target import Target

if TYPE_CHECKING:
    from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters

__all__ = ["AroundObjective", "WrappedObjective", "with_inner"]


class AroundObjective(Objective):
    """Has the goal of another objective: what that wants, refuses, keeps between steps and calls a success.

    Args:
        objective: name, or an objective.
    """

    def __init__(self, objective: str | Objective) -> None:
        self.objective = inner = get_objective(objective)
        self.comparable, self.directed = inner.comparable, inner.directed
        self.organs, self.success_rule = inner.organs, inner.success_rule
        self.allows_moving_anatomy = inner.allows_moving_anatomy

    @property
    def innermost(self) -> Objective:
        """The objective whose goal it is."""
        return self.objective.innermost if isinstance(self.objective, AroundObjective) else self.objective

    @contextmanager
    def watching(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        with self.objective.watching(networks):
            yield

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        return self.objective.prepare(target, clean)

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor | None:
        return self.objective.succeeded(prediction, target)

    def begin(self) -> Objective:
        inner = self.objective.begin()
        if inner is self.objective:
            return self
        made = copy.copy(self)
        made.objective = inner
        return made

    def select(self, rows: torch.Tensor) -> None:
        self.objective.select(rows)

    def image_term(self, bound: BoundPerturbation, changed: torch.Tensor) -> torch.Tensor | None:
        """What the inner objective wants of the image."""
        return self.objective.image_term(bound, changed)

    def parameter_term(self, bound: BoundPerturbation, parameters: Parameters) -> torch.Tensor | None:
        """What the inner objective wants of the parameters."""
        return self.objective.parameter_term(bound, parameters)


class WrappedObjective(AroundObjective, AdditiveObjective):
    """The sums over voxels of another objective.

    Args:
        objective: name, or an objective of sums over voxels, as all built-in ones are.

    Raises:
        TypeError: for an objective that is no sum over voxels.
    """

    objective: AdditiveObjective

    def __init__(self, objective: str | Objective) -> None:
        super().__init__(objective)
        if not isinstance(self.objective, AdditiveObjective):
            kind = type(self.objective).__name__
            raise TypeError(f"objective must be a sum over voxels (AdditiveObjective), got {kind}.")
        self.follows_progress = self.objective.follows_progress

    @abstractmethod
    def _around(self, objective: Objective) -> Objective:
        """The same around another objective."""

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        return self.objective.parts(logits, target, progress, targeted)

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        return self.objective.parts_of_reference(target, dtype)

    def support(self, target: Target) -> torch.Tensor | None:
        return self.objective.support(target)

    def for_classifier(self) -> Objective:
        """The same of what takes its objective's place."""
        inner = self.objective.for_classifier()
        return self if inner is self.objective else self._around(inner)


def with_inner(term: torch.Tensor, inner: torch.Tensor | None) -> torch.Tensor:
    """A term of an objective around another one, and what that one wants of the same thing, if anything."""
    return term if inner is None else term + inner
