# SPDX-License-Identifier: Apache-2.0
"""The loop of every attack: evaluate, learn a direction, move. What is kept of it is the caller's matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from monai_adversarial.attacks.gradients.base import Evaluation, ObjectiveFunction
from monai_adversarial.attacks.objectives import Progress, Target
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.draws import random_draw

if TYPE_CHECKING:
    from monai_adversarial.attacks.attack import Attack

__all__ = ["Ascent", "Step", "check_start", "moved_target", "zero_fraction"]


@dataclass(frozen=True)
class Step:
    """One step of the loop.

    Args:
        parameters: the point that was evaluated.
        found: value and direction there.
    """

    parameters: Parameters
    found: Evaluation


def check_start(start: Parameters, bound: BoundPerturbation) -> Parameters:
    """``start`` as parameters of ``bound``: on its device and in its type.

    Raises:
        TypeError: for anything but tensors.
        ValueError: for other shapes.
    """
    zeros = bound.zeros()
    if not isinstance(start, (list, tuple)) or not all(isinstance(parameter, torch.Tensor) for parameter in start):
        raise TypeError(
            f"start must be a tuple of tensors such as AttackResult.parameters, got {type(start).__name__}."
        )
    given = [tuple(parameter.shape) for parameter in start]
    expected = [tuple(parameter.shape) for parameter in zeros]
    if given != expected:
        raise ValueError(f"start must hold parameters of shapes {expected} as this perturbation has, got {given}.")
    return tuple(parameter.detach().to(zero) for parameter, zero in zip(start, zeros, strict=True))


def moved_target(
    bound: BoundPerturbation, target: Target, parameters: Parameters, classes: int, dtype: torch.dtype
) -> Target:
    """The reference on the perturbed anatomy; the same target unless the perturbation is geometric."""
    if not bound.geometric:
        return target
    if target.index is not None:
        moved = target.with_soft(bound.move_class_map(target.index, classes, parameters))
    else:
        moved = target.with_soft(bound.move_soft_label(target.one_hot(dtype), parameters))
    if target.valid is None:
        return moved
    # Without gradient: moving unknown voxels over an organ is no merit.
    with torch.no_grad():
        valid = bound.move_label(target.valid[:, None].to(torch.uint8), parameters)[:, 0] > 0
    return moved.with_valid(valid)


def zero_fraction(bound: BoundPerturbation, found: Evaluation) -> torch.Tensor:
    """Share of each sample's gradient that is exactly zero, (batch,); NaN for a search without gradients."""
    if found.gradients:
        return bound.frozen_fraction(found.gradients)
    return torch.full_like(found.ranks, torch.nan)


def _without_nan(gradient: torch.Tensor) -> torch.Tensor:
    """Entries that are NaN move nothing: as zeros they are counted among those that could not move."""
    return torch.where(gradient.isnan(), 0.0, gradient)


class Ascent:
    """One run of an attack's search from one start; iterating it runs the steps.

    Args:
        attack: objective, search and gradient.
        predictor: the attacked function.
        bound: perturbation tied to the clean batch.
        target_of: gives the reference, from the logits of the first step where it depends on them.
        stream: number of the random draw (restart, or iteration of a training).
        start: parameters to begin at; None for a random start or the clean image, as ``random_start`` says.
        random_start: begin inside the budget at random.

    Attributes:
        parameters: where the run stands.
    """

    def __init__(
        self,
        attack: Attack,
        predictor: Predictor,
        bound: BoundPerturbation,
        target_of: Callable[[torch.Tensor], Target],
        stream: int,
        start: Parameters | None = None,
        random_start: bool = True,
    ) -> None:
        self.attack, self.predictor, self.bound, self.target_of = attack, predictor, bound, target_of
        self.stream = stream
        if start is not None:
            with torch.no_grad():
                begin = bound.project(check_start(start, bound))
        else:
            begin = bound.random(bound.scene.generators(stream)) if random_start else bound.zeros()
        self.parameters: Parameters = tuple(parameter.detach() for parameter in begin)
        self.search = attack.search.begin(bound, attack.steps)
        self.search.stream = stream

    def __iter__(self) -> Iterator[Step]:
        """Evaluate and move; each step is handed out after the move."""
        attack = self.attack
        for step in range(attack.steps):
            point = self.parameters
            with random_draw(self.stream, step):
                found = self._evaluate(self.objective_at(step), point)
            found = replace(found, gradients=tuple(map(_without_nan, found.gradients)))
            with torch.no_grad():
                self.parameters = self.search.advance(point, found.gradients, found.ranks, step)
            yield Step(point, found)

    def _evaluate(self, function: ObjectiveFunction, point: Parameters) -> Evaluation:
        if self.attack.search.uses_gradients:
            return self.attack.gradient.evaluate(function, point, self.predictor.precision.loss_scale)
        with torch.no_grad():
            values, ranks, logits = function(point)
        return Evaluation(values, ranks, (), logits, forwards=1, backwards=0)

    def last_ranks(self) -> torch.Tensor:
        """What the point where the run ended is compared by, (batch,)."""
        with random_draw(self.stream, self.attack.steps):
            return self.attack.gradient.rank(self.objective_at(self.attack.steps), self.parameters)

    def select(self, rows: torch.Tensor, bound: BoundPerturbation, target: Target) -> None:
        """Go on with some of the samples."""
        self.bound, self.target_of = bound, lambda _: target
        self.parameters = tuple(parameter.index_select(0, rows) for parameter in self.parameters)
        self.search.select(rows, bound)

    def objective_at(self, step: int) -> ObjectiveFunction:
        """Parameters -> (value as the attacker maximizes it, what candidates are compared by, logits)."""
        attack, bound, image = self.attack, self.bound, self.bound.scene.image
        sign = -1.0 if attack.targeted else 1.0
        predict = self.predictor.first_step if step == 0 else self.predictor

        def function(parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            logits = predict(bound.apply(image, parameters))
            target = self.target_of(logits)
            if not attack.targeted:
                target = moved_target(bound, target, parameters, target.classes, image.dtype)
            progress = Progress(step, attack.steps)
            values, ranks = attack.objective.value_and_rank(logits, target, progress, attack.targeted)
            return sign * values, sign * ranks, logits

        return function
