# SPDX-License-Identifier: Apache-2.0
"""The loop of every attack: evaluate, learn a direction, move. What is kept of it is the caller's matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from monai_adversarial.attacks.gradients.base import Evaluation, InputView, ObjectiveFunction
from monai_adversarial.attacks.gradients.surrogate import averaged
from monai_adversarial.attacks.objectives import AdditiveObjective, Objective, Progress, Target
from monai_adversarial.attacks.objectives.adding import add_up, value_and_rank
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.window_objective import Totals, WindowObjective
from monai_adversarial.models.answer import Answer
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.draws import random_draw

if TYPE_CHECKING:
    from monai_adversarial.attacks.attack import Attack

#: adds to what was found at a point whether it is a success, and what points are compared by
Judge = Callable[[BoundPerturbation, Parameters, Evaluation], Evaluation]

__all__ = ["Ascent", "Judge", "Step", "check_start", "moved_target", "zero_fraction"]


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
    bound: BoundPerturbation,
    target: Target,
    parameters: Parameters,
    classes: int,
    dtype: torch.dtype,
    nearest: bool = False,
) -> Target:
    """The reference on the perturbed anatomy; the same target unless the perturbation is geometric.

    Args:
        bound: what moves the image.
        target: the reference on the clean anatomy.
        parameters: of the perturbation.
        classes: the network's output channels.
        dtype: of soft labels.
        nearest: hard labels stay hard, as they are scored, for a search without gradients; otherwise they become soft
            and carry the gradient of the movement.
    """
    if not bound.geometric:
        return target
    if nearest and target.index is not None:
        moved = target.with_index(bound.move_label(target.index[:, None], parameters)[:, 0])
    elif nearest:
        assert target.soft is not None
        moved = target.with_soft(bound.move_label(target.soft, parameters))
    elif target.index is not None:
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
    """Share of each sample's gradient that is exactly zero, (batch,); NaN where nothing was differentiated."""
    if found.gradients and found.backwards:  # estimates leave out what they have not asked about
        return bound.frozen_fraction(found.gradients)
    return torch.full_like(found.ranks, torch.nan)


def _without_nan(gradient: torch.Tensor) -> torch.Tensor:
    """Entries that are NaN move nothing: as zeros they are counted among those that could not move."""
    return gradient.masked_fill_(gradient.isnan(), 0.0)


class Ascent:
    """One run of an attack's search from one start; iterating it runs the steps.

    Args:
        attack: objective, search and gradient.
        predictor: the attacked function.
        bound: perturbation tied to the clean batch.
        target_of: gives the reference, from the number of the network's classes.
        stream: number of the random draw (restart, or iteration of a training).
        start: parameters to begin at; None for a random start or the clean image, as ``random_start`` says.
        random_start: begin inside the budget at random.
        finished: makes the image that is handed back from a bound perturbation and its parameters, which a search
            without gradients asks about; None for the perturbed image as it is computed.
        decide: boolean (batch,), whether a segmentation of the image of some parameters is a success, for a search that
            learns no more than that.
        judge: says of each point that was evaluated whether the attack succeeds there, for searches that need to know;
            None where the last or the best value is all that counts.
        look_around: let the search choose another start than the random one, as ``ExtremesFirst`` does.

    Attributes:
        parameters: where the run stands.
    """

    def __init__(
        self,
        attack: Attack,
        predictor: Predictor,
        bound: BoundPerturbation,
        target_of: Callable[[int], Target],
        stream: int,
        start: Parameters | None = None,
        random_start: bool = True,
        finished: Callable[[BoundPerturbation, Parameters], torch.Tensor] | None = None,
        decide: Callable[[BoundPerturbation, Parameters, torch.Tensor], torch.Tensor] | None = None,
        judge: Judge | None = None,
        look_around: bool = False,
    ) -> None:
        if attack.search.uses_decisions and decide is None:
            raise ValueError(
                f"{type(attack.search).__name__} learns only whether an image is a success, which training does not "
                "ask: use another search."
            )
        self.decide = decide
        self.attack, self.predictor, self.bound, self.target_of = attack, predictor, bound, target_of
        self.stream, self.finished, self.judge = stream, finished, judge
        self.success: torch.Tensor | None = None
        self.by_queries = attack.by_queries
        if attack.gradient.surrogates and predictor.surrogates is None:
            raise ValueError("surrogates belong to an attack of its own, not to a member of an ensemble.")
        for number, one in enumerate(predictor.surrogates or ()):
            expected, given = predictor.model.found_classes, one.model.found_classes
            if expected is not None and given is not None and given != expected:
                raise ValueError(f"surrogate {number} answers in {given} classes, the attacked model in {expected}.")
        if self.by_queries:
            predictor.learn(bound.scene.image, scored=True)
        if start is not None:
            with torch.no_grad():
                begin = bound.project(check_start(start, bound))
        else:
            begin = bound.start(bound.scene.generators(stream)) if random_start else bound.zeros()
        self.parameters: Parameters = tuple(parameter.detach() for parameter in begin)
        self.gradient = attack.gradient.begin(bound, attack.steps, stream)
        self.search = attack.search.begin(bound, attack.steps)
        self.search.stream = stream
        self.best: tuple[Parameters, torch.Tensor] | None = None
        if start is None and random_start:
            with torch.no_grad():
                self.parameters = self.search.first(self.parameters)
                if look_around:
                    self.parameters = self.search.look_around(self.parameters)
        self._objective: Objective | None = None
        self.windowed = self._window_objective()

    @property
    def objective(self) -> Objective:
        """What is maximized: the attack's own, or what takes its place for a classifier. The first answer shows which.

        Raises:
            TypeError: for an objective that a classifier has no answer for.
        """
        if self._objective is None:
            own = self.attack.objective
            self._objective = (own.for_classifier() if self.predictor.model.classifies else own).begin()
        return self._objective

    def _window_objective(self) -> WindowObjective | None:
        """The objective window by window, where that is asked for and possible."""
        attack, predictor, image = self.attack, self.predictor, self.bound.scene.image
        if (
            self.by_queries  # answers are stitched before anyone sees them
            or predictor.surrogates is not None
            or not attack.gradient.windowwise
            or not isinstance(attack.objective, AdditiveObjective)
            or self.bound.geometric
            or attack.early_stop
            or self.judge is not None  # needs the stitched answer in each step
            or not WindowObjective.fits(predictor, image)
        ):
            return None
        predictor.learn(image)
        if predictor.model.found_classes is None:
            return None
        local = predictor.inferer is predictor.plain_windows  # a purifier carries a change to other voxels
        return WindowObjective(predictor, attack.objective, attack.targeted, self.bound.support if local else None)

    def __iter__(self) -> Iterator[Step]:
        """Evaluate and move; each step is handed out after the move."""
        attack = self.attack
        for step in range(attack.steps):
            point = self.parameters
            estimates = self.by_queries and attack.search.uses_gradients
            last_estimate = estimates and step == attack.steps - 1
            with random_draw(self.stream, step):
                asks_once = last_estimate or not attack.search.uses_gradients
                found = self._query(point, step) if asks_once else self._evaluate(step, point)
            found = replace(found, gradients=tuple(map(_without_nan, found.gradients)))
            with torch.no_grad():
                if self.judge is not None:
                    found = self.judge(self.bound, point, found)
                self.success = found.success
                self.search.found = found
                best = self._best(point, found.ranks) if estimates else point
                # What a search by estimates ends at is its outcome, as of a search by values.
                self.parameters = (
                    best if last_estimate else self.search.advance(point, found.gradients, found.ranks, step)
                )
                del self.search.found  # no gradient is kept beyond its step
            yield Step(point, found)
            del point, best, found  # before the next evaluation needs the memory

    def _best(self, point: Parameters, ranks: torch.Tensor) -> Parameters:
        """The best of all points of each sample that were asked about so far."""
        if self.best is not None:
            before, known = self.best
            better = ranks >= known
            point = tuple(torch.where(per_sample(better, a), a, b) for a, b in zip(point, before, strict=True))
            ranks = torch.where(better, ranks, known)
        self.best = point, ranks
        return point

    def _evaluate(self, step: int, point: Parameters) -> Evaluation:
        if not self.by_queries:
            with self.predictor.only_surrogates():
                return self.gradient.evaluate(self.objective_at(step), point, self._loss_scale)
        first: Evaluation | None = None

        def function(
            parameters: Parameters, view: InputView | None = None
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
            nonlocal first
            if view is not None:
                raise ValueError("queries ask about the image as it is: input diversity needs surrogates' gradients.")
            found = self._query(parameters, step)
            self._best(parameters, found.ranks)
            first = first or found
            return found.values, found.ranks, None

        found = self.gradient.evaluate(function, point)
        return replace(found, prediction=None if first is None else first.prediction)

    def _query(self, point: Parameters, step: int) -> Evaluation:
        """Ask the model as it is deployed about the image as it would be handed back."""
        with torch.no_grad():
            bound = self.bound
            image = bound.apply(bound.scene.image, point) if self.finished is None else self.finished(bound, point)
            answer, values, ranks = self._judged(image, point, step)
        return Evaluation(values, ranks, (), None, forwards=1, backwards=0, prediction=answer.prediction)

    @property
    def _loss_scale(self) -> float:
        followed = self.predictor.surrogates or (self.predictor,)
        # One for all: float32 takes float16's, not the other way round.
        return min((one.precision.loss_scale for one in followed if one.precision.loss_scale > 1.0), default=1.0)

    def last_ranks(self) -> torch.Tensor:
        """What the point where the run ended is compared by, (batch,)."""
        with random_draw(self.stream, self.attack.steps):
            if self.by_queries:
                return self._query(self.parameters, self.attack.steps).ranks
            with self.predictor.only_surrogates():
                return self.gradient.rank(self.objective_at(self.attack.steps), self.parameters)

    def select(self, rows: torch.Tensor, bound: BoundPerturbation, target: Target) -> None:
        """Go on with some of the samples."""
        self.bound, self.target_of = bound, lambda _: target
        self.parameters = tuple(parameter.index_select(0, rows) for parameter in self.parameters)
        self.search.select(rows, bound)
        self.gradient.select(rows, bound)
        if self.best is not None:
            point, ranks = self.best
            self.best = tuple(part.index_select(0, rows) for part in point), ranks.index_select(0, rows)
        self.objective.select(rows)
        self.success = None if self.success is None else self.success.index_select(0, rows)

    def objective_at(self, step: int) -> ObjectiveFunction:
        """Parameters -> (value as the attacker maximizes it, what candidates are compared by, logits)."""
        attack, bound, image = self.attack, self.bound, self.bound.scene.image
        sign = -1.0 if attack.targeted else 1.0
        followed = self.predictor.surrogates
        predict = followed or ((self.predictor.first_step if step == 0 else self.predictor),)
        progress = Progress(step, attack.steps, self.success)

        def function(
            parameters: Parameters, view: InputView | None = None
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
            with bound.sharing():
                changed = bound.apply(image, parameters)
                if self.windowed is not None and view is None:
                    assert self.predictor.model.found_classes is not None
                    target = self.target_of(self.predictor.model.found_classes)
                    values, ranks = self.windowed(changed, target, progress)
                    return *self._with_terms(changed, parameters, sign * values, sign * ranks), None
                seen = changed if view is None else view.image(changed)
                answers = [one(seen) if view is None else view.logits(one(seen)) for one in predict]
                if followed and attack.gradient.surrogate_average != "loss":
                    answers = [
                        averaged(answers, attack.gradient.surrogate_average, self.target_of(answers[0].shape[1]))
                    ]
                target = self._target_at(parameters, int(answers[0].shape[1]))
                found = [value_and_rank(self.objective, one, target, progress, attack.targeted) for one in answers]
                values, ranks = (torch.stack(column).mean(dim=0) for column in zip(*found, strict=True))
                return (
                    *self._with_terms(changed, parameters, sign * values, sign * ranks),
                    answers[0] if attack.early_stop or self.judge is not None else None,
                )

        return function

    def _with_terms(
        self, image: torch.Tensor, parameters: Parameters, values: torch.Tensor, ranks: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Value and rank as the attacker maximizes them, with what it wants of the image and the parameters
        themselves."""
        for extra in (
            self.objective.image_term(self.bound, image),
            self.objective.parameter_term(self.bound, parameters),
        ):
            if extra is not None:
                values, ranks = values + extra, ranks + extra.detach()
        return values, ranks

    def _target_at(self, parameters: Parameters, classes: int) -> Target:
        """The reference, moved as the image is: what a classifier says of an image stays where that goes."""
        target = self.target_of(classes)
        if self.attack.targeted or self.predictor.model.classifies:
            return target
        dtype = self.bound.scene.image.dtype
        return moved_target(self.bound, target, parameters, target.classes, dtype, nearest=self.by_queries)

    def answer_and_ranks(self, image: torch.Tensor) -> tuple[Answer, torch.Tensor] | None:
        """The segmentation of the finished image as it is scored, and what the point where the run ended is compared
        by, from one pass; None where that takes another one.

        Args:
            image: made from ``parameters``.
        """
        attack, predictor = self.attack, self.predictor
        objective = self.objective
        if predictor.surrogates is not None:
            return None  # the search follows other networks: what it ends at is not known to be the best
        if not predictor.is_constant or attack.gradient.averages:
            # Where answers are random, the draw that made a point the best one must not be the draw that is reported.
            return None
        if not self.by_queries and (
            # A saturated final activation, which steps leave out, hides what the point is worth.
            not isinstance(objective, AdditiveObjective) or predictor.model.found_output_values != "logits"
        ):
            return None
        classes = predictor.model.found_classes
        if classes is None:
            return None
        with torch.no_grad(), random_draw(self.stream, attack.steps):
            if self.windowed is not None:
                target = self._target_at(self.parameters, classes)
                answer, ranks = self.windowed.answer_and_ranks(image, target, Progress(attack.steps, attack.steps))
                ranks = -ranks if attack.targeted else ranks
                return answer, self._with_terms(image, self.parameters, ranks, ranks)[1]
            answer, _, ranks = self._judged(image, self.parameters, attack.steps)
            return answer, ranks

    def _judged(
        self, image: torch.Tensor, parameters: Parameters, step: int
    ) -> tuple[Answer, torch.Tensor, torch.Tensor]:
        """The segmentation of an image as it is scored, its value as the attacker maximizes it and what candidates are
        compared by, from one pass and without gradients."""
        attack, objective = self.attack, self.objective
        progress, totals = Progress(step, attack.steps), Totals(image.shape[0])
        target: Target | None = None
        whole: torch.Tensor | None = None

        def look(rows: slice, where: tuple[slice, ...], logits: torch.Tensor) -> None:
            nonlocal target, whole
            if target is None:
                target = self._target_at(parameters, int(logits.shape[1]))
            if isinstance(objective, AdditiveObjective):
                sums, _ = add_up(objective, logits, target.part(rows, where), progress, attack.targeted)
                for number in range(logits.shape[0]):
                    totals.add((rows.start or 0) + number, tuple(s[number : number + 1] for s in sums))
                return
            if whole is None:
                whole = logits.new_empty((image.shape[0], logits.shape[1], *self.predictor.grid(image)))
            whole[(rows, slice(None), *where)] = logits

        answer = self.predictor.answer(image, look_at_pieces=look)
        assert target is not None
        if isinstance(objective, AdditiveObjective):
            values, ranks, _ = totals.finish(objective, target)
        else:
            assert whole is not None
            values, ranks = value_and_rank(objective, whole, target, progress, attack.targeted)
        if attack.search.uses_decisions:
            assert self.decide is not None
            values = ranks = self.decide(self.bound, parameters, answer.prediction).to(values)
            return answer, values, ranks
        values, ranks = (-values, -ranks) if attack.targeted else (values, ranks)
        return answer, *self._with_terms(image, parameters, values, ranks)
