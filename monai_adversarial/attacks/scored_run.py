# SPDX-License-Identifier: Apache-2.0
"""An attack whose outcome counts: restarts, the best of every sample, early stop, a verified budget and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from monai.utils import convert_to_dst_type
from tqdm import tqdm

from monai_adversarial.attacks.ascent import Ascent, Judge, Step, check_start, zero_fraction
from monai_adversarial.attacks.flags import say_zero_gradients
from monai_adversarial.attacks.frozen_voxels import FrozenPoint, say_frozen_voxels
from monai_adversarial.attacks.objectives import Target
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.query_checks import say_another_answer, say_same_answers
from monai_adversarial.attacks.reference import Reference, class_mask, prepared
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.metrics.clean_score import LOW_CLEAN
from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.metrics.success import success, success_rule
from monai_adversarial.models.answer import Answer
from monai_adversarial.models.first_batch import (
    check_background,
    check_classes_fit,
    check_clean_score,
    check_exclusive,
    check_ignored,
    check_label_fits,
    check_trained,
    say_clock,
    say_counted,
    say_kept,
    say_random,
    say_seeded,
)
from monai_adversarial.models.predictor import ROUNDED, Predictor
from monai_adversarial.models.shifted_label import check_label_place
from monai_adversarial.models.wrong_gradient import reason_of
from monai_adversarial.utils.allocator import give_back_excess
from monai_adversarial.utils.arrays import StoredAs
from monai_adversarial.utils.plain import detached
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_region

if TYPE_CHECKING:
    from monai_adversarial.attacks.attack import Attack

__all__ = ["ScoredRun"]

#: stream of a random image that is asked about; restarts use 0, 1, 2, ...
NEARBY = 3_000_000


@dataclass(frozen=True)
class Finished:
    """The point where a run ended, scored.

    Args:
        image: the finished adversarial batch.
        prediction: its segmentation.
        is_best: boolean (batch,), whether it is the best point of the sample.
    """

    image: torch.Tensor
    prediction: torch.Tensor
    is_best: torch.Tensor


class ScoredRun:
    """One attack on one batch.

    Args:
        attack: the attack.
        predictor: the attacked function.
        scene: the clean batch.
        label: its label; None for the clean prediction.
        objective_region: boolean (batch, 1, spatial...), voxels at which the objective counts; None for all.
        stored: the type in which the adversarial image is handed back.
        start: parameters at which the first restart begins.
        truth: the true segmentation, of a targeted attack whose ``label`` is another one; None for the clean
            prediction.
        clean: the answer to the clean batch where it is known already; None to ask for it.
        samples: which samples of the predictor's batch these are; None for all of them.
    """

    def __init__(
        self,
        attack: Attack,
        predictor: Predictor,
        scene: Scene,
        label: torch.Tensor | None,
        objective_region: torch.Tensor | None,
        stored: StoredAs,
        start: Parameters | None = None,
        truth: torch.Tensor | None = None,
        clean: Answer | None = None,
        samples: Sequence[int] | None = None,
    ) -> None:
        self.attack, self.predictor, self.scene, self.stored = attack, predictor, scene, stored
        self.samples = list(range(scene.batch) if samples is None else samples)
        self.bound = attack.perturbation.bind(scene)
        self.start = None if start is None else check_start(start, self.bound)
        self.backwards = 0
        answer = predictor.read_clean(scene.image) if clean is None else clean
        classes = answer.classes
        labeled = label is not None
        if label is None and attack.targeted:
            raise ValueError("a targeted attack needs label=, what the attacker wants the network to say.")
        if label is None:
            label = answer.prediction
        self.given = attack
        if predictor.model.classifies:
            attack = self.attack = attack.for_classifier()
        self.reference = Reference.read(predictor.model, label.to(scene.image.device), classes)
        self.activation = self.reference.activation
        if self.activation != answer.activation:  # the label has shown that its classes overlap
            answer = predictor.answer(scene.image)
        self.objective_region = objective_region
        weight = None
        if objective_region is not None and self.reference.per_image:
            raise ValueError(
                "objective_region chooses voxels of a segmentation, but the network gives one answer per image: leave "
                "it out."
            )
        if objective_region is not None:
            region = check_region(detached(objective_region), scene.image, "objective_region")
            weight = region[:, 0].to(scene.image.dtype)
        self.target = self.reference.target(class_mask(self._objective_classes(), classes, scene.image.device), weight)
        self.clean, self.clean_prediction = answer, answer.prediction
        self.target = prepared(attack, self.target, self.bound, predictor, answer.prediction)
        self.truth: Reference | None = None
        if attack.targeted:
            true = answer.prediction if truth is None else truth.to(scene.image.device)
            self.truth = Reference.read(predictor.model, true, classes)
        self.clean_score = self.reference.score(self.clean_prediction)
        self._is_first_batch = not predictor.model.checked
        if self._is_first_batch:
            self._check_first_batch(answer, labeled)
        self.last: Finished | None = None
        self.parameters: Parameters = self.bound.zeros()
        self.objective = torch.full_like(self.clean_score, -torch.inf)
        self.preferred = self.objective
        self.solved = torch.zeros(scene.batch, dtype=torch.bool, device=scene.image.device)
        self.zero_fractions: list[torch.Tensor] = []
        self.frozen_point: FrozenPoint | None = None
        self.history: list[torch.Tensor] = []
        self._search()

    def _objective_classes(self) -> Sequence[int] | None:
        """The classes that the objective counts; None for all."""
        return self.reference.objective_classes(self.attack.classes, self.predictor.model)

    def _check_first_batch(self, answer: Answer, labeled: bool) -> None:
        """What is said once of a model."""
        model, reference = self.predictor.model, self.reference
        model.checked = True
        if labeled:
            check_ignored(model, reference.classes)
        if labeled and not self.attack.targeted and reference.per_image:
            check_classes_fit(model, self.clean_score)
        elif labeled and not self.attack.targeted:
            check_label_fits(model, answer.prediction, reference.label, reference.classes, self.activation)
            check_label_place(model, answer.prediction, reference.label, reference.classes, self.activation)
            check_clean_score(model, self.clean_score, self.scene.image)
        fits = labeled and float(self.clean_score.nanmean()) >= LOW_CLEAN  # then they were read rightly
        if self.activation == "softmax" and not reference.per_image and not fits:
            check_exclusive(model, answer.summary)
        if self.activation == "sigmoid" and not reference.per_image and not self.attack.targeted:
            check_background(model, reference.label, reference.scored)
        check_trained(model)
        self._check_repeated_answers(answer)
        self._check_gradient(answer)

    def _check_repeated_answers(self, answer: Answer) -> None:
        """What is said of an answer that is another one when it is asked for again, or after another image."""
        predictor, model, image = self.predictor, self.predictor.model, self.scene.image
        averages = self.attack.gradient.averages
        if predictor.drew_random_numbers or (predictor.draws_anew and not predictor.purifies_at_random):
            again = None if averages and predictor.drew_random_numbers else predictor.answer(image)
            if again is not None and not again.equals(answer):
                say_random(model, again.share_of_others(answer))
            elif again is not None and predictor.is_seeded_by(image, answer):
                say_seeded(model)
        elif predictor.purifies_at_random:
            if not averages:
                say_random(model, purifier=True)
        elif predictor.kept is not None:
            names = predictor.kept.changed()
            # A cache may answer images alone that are near to one that it knows, as those of an attack are.
            if names and (
                predictor.depends_on_the_past(image.flip(-1)) or predictor.depends_on_the_past(self._nearby(), answer)
            ):
                say_kept(model, names)
            elif names := predictor.depends_on_what_it_held(image.flip(-1)):
                say_kept(model, names)

    def _nearby(self) -> torch.Tensor:
        """An image inside the budget, at random."""
        scene = self.scene
        return self._finished(self.bound, self.bound.start(scene.generators(NEARBY)))

    def _check_asked_later(self, adversarial: torch.Tensor, reference: Reference, score: torch.Tensor) -> None:
        """What is said of an answer that depends on how often the network was asked, or on the time.

        It costs a pass of a network whose code reads what it counts, and one of a network that asks for the time.
        """
        predictor, kept = self.predictor, self.predictor.kept
        if not self._is_first_batch or kept is None or predictor.drew_random_numbers or predictor.draws_anew:
            return
        names = kept.counted()
        if names:
            with kept.counting_anew():
                found = reference.score(predictor.answer(adversarial).prediction)
            say_counted(predictor.model, names, score, found)
        elif kept.clocks:
            share = predictor.answer(self.scene.image).share_of_others(self.clean)
            if share > ROUNDED:
                say_clock(predictor.model, kept.clocks, share)

    def _check_asked_again(self, ascent: Ascent, ranks: torch.Tensor) -> None:
        """What is said where the best point of a search by queries is worth little when it is asked about again.

        Args:
            ascent: stands at the point where the run ended.
            ranks: what that is compared by, from a query of its own.
        """
        if not ascent.by_queries or not self.history:
            return
        pairs = zip(ascent.parameters, self.parameters, strict=True)
        same = torch.stack([(one == other).flatten(1).all(dim=1) for one, other in pairs]).all(dim=0)
        again = torch.where(same, ranks.to(self.objective.dtype), torch.nan)
        say_another_answer(self.predictor.model, self.history[0], self.objective, again)

    def _check_gradient(self, answer: Answer) -> None:
        """What is said of a gradient that is not that of the network, where a call was seen that cuts it."""
        predictor = self.predictor
        if not predictor.cut or self.attack.by_queries or predictor.surrogates is not None:
            return
        reason = reason_of(predictor, self.scene.image, answer)
        self.backwards += self.scene.batch
        if reason:
            model = predictor.model
            model.warn_once("gradient", f"{reason} ({predictor.cut} was called).")

    def _search(self) -> None:
        attack = self.attack
        bar = tqdm(
            total=attack.restarts * attack.steps, disable=not attack.progress, desc=type(attack).__name__, leave=False
        )
        with bar:
            for restart in range(attack.restarts):
                # The host learns which samples are left only when early stopping asks for it.
                left = list(range(self.scene.batch))
                if attack.early_stop:
                    left = [i for i, solved in enumerate(self.solved.tolist()) if not solved]
                    if not left:
                        break
                self._use(left)
                self._restart(restart, left, bar)
        self._use(range(self.scene.batch))

    def _use(self, left: Sequence[int]) -> None:
        """Predict some of the samples from now on."""
        self.predictor.use_samples([self.samples[row] for row in left])

    def _restart(self, restart: int, left: list[int], bar: tqdm) -> None:
        attack = self.attack
        everyone = len(left) == self.scene.batch
        scene = self.scene if everyone else self.scene.select(left)
        bound = self.bound if everyone else attack.perturbation.bind(scene)
        target = self.target if everyone else self.target.select(torch.as_tensor(left, device=scene.image.device))
        ascent = Ascent(
            attack,
            self.predictor,
            bound,
            lambda _: target,
            stream=restart,
            start=self.start if restart == 0 else None,
            random_start=attack.random_start or restart > 0,
            finished=self._finished,
            decide=lambda bound, parameters, prediction: self._decide(bound, parameters, prediction, left),
            judge=self._judge(),
            look_around=restart == 0,
        )
        done, point = 0, None  # enumerate would hold a step beyond its turn
        for step in ascent:
            done += 1
            self.backwards += step.found.backwards * len(left)
            self._look_at(ascent.bound, step, left)
            ranks = step.found.ranks.detach()
            self._keep_best(left, step.parameters, ranks, ascent.search.preference(step.parameters, ranks))
            zeros = zero_fraction(ascent.bound, step.found)
            self.zero_fractions.append(self._spread(left, zeros))
            if done == attack.steps and len(left) == self.scene.batch:
                point = FrozenPoint.of(step, zeros)
            bar.update()
            if attack.early_stop:
                prediction = step.found.prediction
                if prediction is None:
                    assert step.found.logits is not None
                    prediction = hard_prediction(step.found.logits, self.activation)
                keep = self._unsolved(ascent.bound, prediction, left)
                if not keep:
                    return
                if len(keep) < len(left):
                    rows = torch.as_tensor(keep, device=scene.image.device)
                    left = [left[i] for i in keep]
                    self._use(left)
                    scene, target = scene.select(keep), target.select(rows)
                    ascent.select(rows, attack.perturbation.bind(scene), target)
            del step  # before the next one needs the memory
        if point is not None:  # asked behind the loop; what hardly anything is frozen of is not held during the scores
            self.frozen_point = point if point.matters() else None
        del point
        give_back_excess(scene.image.device)  # what comes next works in another precision
        self._close(ascent, left, restart)

    def _close(self, ascent: Ascent, left: list[int], restart: int) -> None:
        """Compare the point where a run ended."""
        everyone = len(left) == self.scene.batch
        if everyone and restart == self.attack.restarts - 1:
            image = self._finished(self.bound, ascent.parameters)
            scored = ascent.answer_and_ranks(image)
            if scored is not None:
                answer, ranks = scored
                self._check_asked_again(ascent, ranks.detach())
                self._keep_best(left, ascent.parameters, ranks, ascent.search.preference(ascent.parameters, ranks))
                self.last = Finished(image, answer.prediction, self.latest_is_best)
                return
        ranks = ascent.last_ranks().detach()
        self._keep_best(left, ascent.parameters, ranks, ascent.search.preference(ascent.parameters, ranks))

    def _judge(self) -> Judge | None:
        """What says of single points whether they are a success; None for runs that do not ask."""
        return None

    def _inner(
        self,
        attack: Attack,
        left: list[int],
        start: Parameters | None,
        relabel: Callable[[torch.Tensor, Reference], torch.Tensor] | None = None,
    ) -> ScoredRun:
        """A run of another attack on some of the samples, which are not asked about their clean images again.

        Args:
            attack: what it does.
            left: the samples.
            start: parameters of these samples at which it begins.
            relabel: what it takes for the label, from the label and its reference; None for the label itself.
        """
        rows = torch.as_tensor(left, device=self.scene.image.device)
        everyone = len(left) == self.scene.batch
        reference = self.reference if everyone else self.reference.select(rows)
        label = reference.with_ignored(self.predictor.model.ignore_index)
        region = self.objective_region
        return attack._run_type(
            attack,
            self.predictor,
            self.scene if everyone else self.scene.select(left),
            label if relabel is None else relabel(label, reference),
            region if everyone or region is None else region.index_select(0, rows),
            self.stored,
            start,
            clean=self.clean if everyone else self.clean.select(rows),
            samples=[self.samples[row] for row in left],
        )

    def _look_at(self, bound: BoundPerturbation, step: Step, left: list[int]) -> None:
        """Told of each step before anything is kept of it; nothing here, for runs that report more than the best."""

    def _unsolved(self, bound: BoundPerturbation, prediction: torch.Tensor, left: list[int]) -> list[int]:
        """Positions in ``left`` that have not succeeded at the point that was just evaluated."""
        where = torch.as_tensor(left, device=prediction.device)
        best = tuple(p.index_select(0, where) for p in self.parameters)
        with torch.no_grad():
            reference = self.reference.select(where)
            moved = reference if self.attack.targeted else reference.moved(bound, best)
            score = moved.score(prediction)
            # The prediction belongs to the point of this step: it counts where that point is the best so far.
            reached = self._succeeded(score, self.clean_score[where], prediction, self.target.select(where))
            solved = reached & self.latest_is_best
        self.solved[where] |= solved
        return [i for i, done in enumerate(solved.tolist()) if not done]

    def _decide(
        self, bound: BoundPerturbation, parameters: Parameters, prediction: torch.Tensor, left: list[int]
    ) -> torch.Tensor:
        """Whether a segmentation of the image of some parameters is a success, (batch,)."""
        where = torch.as_tensor(left, device=prediction.device)
        reference = self.reference.select(where)
        moved = reference if self.attack.targeted else reference.moved(bound, parameters)
        return self._succeeded(moved.score(prediction), self.clean_score[where], prediction, self.target.select(where))

    def _succeeded(
        self, score: torch.Tensor, clean_score: torch.Tensor, prediction: torch.Tensor, target: Target
    ) -> torch.Tensor:
        attack = self.attack
        found = attack.objective.succeeded(prediction, target)
        if found is not None:
            return found
        return torch.as_tensor(success(clean_score, score, attack.success_threshold, attack.targeted))

    def _clean_success(self) -> torch.Tensor | None:
        """Of a targeted attack: whether the clean prediction is what counts as a success already."""
        if not self.attack.targeted:
            return None
        return self._succeeded(self.clean_score, self.clean_score, self.clean_prediction, self.target)

    def _keep_best(
        self, left: list[int], parameters: Parameters, values: torch.Tensor, preferred: torch.Tensor
    ) -> None:
        values = values.detach().to(self.objective.dtype)
        preferred = preferred.detach().to(self.objective.dtype)
        if len(left) == self.scene.batch:
            better = preferred >= self.preferred  # of equals the later one, whose steps were smaller
            self.objective = torch.where(better, values, self.objective)
            self.preferred = torch.where(better, preferred, self.preferred)
            self.parameters = tuple(
                torch.where(per_sample(better, new), new, old)
                for new, old in zip(parameters, self.parameters, strict=True)
            )
        else:
            where = torch.as_tensor(left, device=values.device)
            old_values, old_preferred = self.objective[where], self.preferred[where]
            better = preferred >= old_preferred
            self.objective = self.objective.index_copy(0, where, torch.where(better, values, old_values))
            self.preferred = self.preferred.index_copy(0, where, torch.where(better, preferred, old_preferred))
            self.parameters = tuple(
                old.index_copy(0, where, torch.where(per_sample(better, new), new, old.index_select(0, where)))
                for new, old in zip(parameters, self.parameters, strict=True)
            )
        self.latest_is_best = better
        self.history.append(self._spread(left, values))

    def _spread(self, left: list[int], values: torch.Tensor) -> torch.Tensor:
        """Values of some samples as a row for the whole batch, NaN elsewhere."""
        if len(left) == self.scene.batch:
            return values.detach()
        row = torch.full((self.scene.batch,), torch.nan, dtype=values.dtype, device=values.device)
        row[torch.as_tensor(left, device=values.device)] = values.detach()
        return row

    def _finished(self, bound: BoundPerturbation, parameters: Parameters) -> torch.Tensor:
        """The image of some parameters as it is handed back: in values that its file, or the given type, can hold."""
        clean = bound.scene.image
        with torch.no_grad():
            return self.stored(clean, bound.finished(clean, parameters))

    def outcome(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The finished image of the best points, and its segmentation as it is scored.

        Raises:
            RuntimeError: where a sample has no best point, because its objective was NaN everywhere.
        """
        lost = torch.isneginf(self.objective).nonzero().flatten().tolist()
        if lost:
            raise RuntimeError(
                f"the objective was NaN at every step for sample {self.samples[lost[0]]}: check the network under "
                f"{self.predictor.precision}."
            )
        if self.last is not None and bool(self.last.is_best.all()):
            return self.last.image, self.last.prediction
        adversarial = self._finished(self.bound, self.parameters)
        return adversarial, self.predictor.answer(adversarial).prediction

    def finish(self, image: torch.Tensor, label: torch.Tensor | None) -> AttackResult:
        """Build the finished image, verify its budget and score it.

        Args:
            image: the clean batch with all its channels.
            label: its label, if one was given.
        """
        attack, clean = self.attack, self.scene.image
        adversarial, prediction = self.outcome()
        with torch.no_grad():
            budgets = self.bound.verify(clean, adversarial, self.parameters)
            reference = self.reference if attack.targeted else self.reference.moved(self.bound, self.parameters)
            score = reference.score(prediction)
            moved = self._as_given(reference.with_ignored(self.predictor.model.ignore_index), label)
            whole = self.predictor.model.whole_image(adversarial, detached(image))
            succeeded = self._succeeded(score, self.clean_score, prediction, self.target)
            zeros = torch.stack(self.zero_fractions).nanmean(dim=0)
            self._check_asked_later(adversarial, reference, score)
        followed = self.predictor.surrogates or ()
        if not followed and self.objective_region is None:  # elsewhere a surrogate or most voxels have none to give
            seen = zeros, self.clean_score, score, succeeded
            say_zero_gradients(self.predictor.model, *seen)
            if self.frozen_point is not None:
                say_frozen_voxels(self.frozen_point, self.bound, self.predictor, self.reference, *seen)
        if attack.by_queries and not followed and not attack.search.uses_decisions:
            say_same_answers(self.predictor.model, torch.stack(self.history), self.clean_score, score, succeeded)
        return AttackResult(
            adversarial=convert_to_dst_type(whole, dst=image)[0],
            label=moved if label is None else convert_to_dst_type(moved, dst=label)[0],
            parameters=self.parameters,
            objective=self.objective,
            objective_history=torch.stack(self.history),
            success=succeeded,
            clean_score=self.clean_score,
            adversarial_score=score,
            metric=self.reference.metric,
            clean_prediction=self._as_given(self.clean_prediction),
            prediction=self._as_given(prediction),
            budgets=budgets,
            forwards=self.predictor.forwards,
            backwards=0 if followed else self.backwards,
            queries=self.predictor.forwards - (0 if followed else self.backwards),
            surrogate_forwards=sum(one.forwards for one in followed),
            surrogate_backwards=self.backwards * len(followed),
            zero_gradient_fraction=zeros,
            reference_is_prediction=label is None,
            reference_reason="no label was given" if label is None else "",
            attack=repr(self.given),
            model=self.predictor.model,
            facts=(*self.predictor.model.findings, *self._counterpart()),
            success_rule=self._success_rule(),
            clean_success=self._clean_success(),
            image=clean,
            bound=self.bound,
            image_channels=self.predictor.model.channels_in(image),
            clean_label=self._as_given(self.reference.with_ignored(self.predictor.model.ignore_index), label),
            **self._with_the_truth(prediction),
        )

    def _as_given(self, tensor: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        """What a classifier says of images without the axis of its one voxel, and as the label has it, if one was
        given."""
        if not self.reference.per_image:
            return tensor
        return tensor.flatten(1) if label is None else tensor.reshape(label.shape)

    def _counterpart(self) -> tuple[str, ...]:
        """What is maximized instead of an objective of segmentations, as a fact."""
        own, used = self.given.objective, self.attack.objective
        if used is own:
            return ()
        return (f"objective {type(used).__name__} in the place of {type(own).__name__}, which compares segmentations",)

    def _success_rule(self) -> str:
        decisions = 1 if self.activation == "softmax" else len(self.reference.scored)
        attack = self.attack
        return attack.objective.success_rule or success_rule(
            attack.success_threshold, attack.targeted, self.reference.metric, decisions
        )

    def _with_the_truth(self, prediction: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of a targeted attack: how near the segmentation is to the wanted one, and how far from the true one."""
        if self.truth is None or self.reference.per_image:
            return {}
        moved = self.truth.moved(self.bound, self.parameters)
        organs = self.attack.objective.organs
        return {
            "clean_iou": self.reference.iou(self.clean_prediction, organs),
            "iou": self.reference.iou(prediction, organs),
            "clean_truth_dice": self.truth.score(self.clean_prediction),
            "truth_dice": moved.score(prediction),
        }
