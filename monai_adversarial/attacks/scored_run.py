# SPDX-License-Identifier: Apache-2.0
"""An attack whose outcome counts: restarts, the best of every sample, early stop, a verified budget and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from monai.utils import convert_to_dst_type
from tqdm import tqdm

from monai_adversarial.attacks.ascent import Ascent, check_start
from monai_adversarial.attacks.objectives import Target
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.perturbed import class_mask
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.metrics.batch_dice import hard_prediction, mean_foreground_dice
from monai_adversarial.models.predictor import Predictor
from monai_adversarial.utils.plain import detached
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_label_range, check_region

if TYPE_CHECKING:
    from monai_adversarial.attacks.attack import Attack

__all__ = ["ScoredRun"]


class ScoredRun:
    """One attack on one batch."""

    def __init__(
        self,
        attack: Attack,
        predictor: Predictor,
        scene: Scene,
        label: torch.Tensor | None,
        objective_region: torch.Tensor | None,
        start: Parameters | None = None,
    ) -> None:
        self.attack, self.predictor, self.scene = attack, predictor, scene
        self.bound = attack.perturbation.bind(scene)
        self.start = None if start is None else check_start(start, self.bound)
        self.backwards = 0
        logits = predictor.read_clean(scene.image)
        self.network_classes = int(logits.shape[1])
        self.activation = predictor.model.activation_of(self.network_classes)
        if label is None and attack.targeted:
            raise ValueError("a targeted attack needs label=, the segmentation that the attacker wants to see.")
        if label is not None:
            check_label_range(label, self.network_classes)
        prediction = hard_prediction(logits, self.activation)
        self.label = prediction if label is None else label.to(scene.image.device)
        weight = None
        if objective_region is not None:
            weight = check_region(detached(objective_region), scene.image, "objective_region")[:, 0].to(
                scene.image.dtype
            )
        self.target = Target.from_label(
            self.label,
            self.network_classes,
            self.activation,
            weight=weight,
            class_mask=class_mask(attack.classes, self.network_classes, self.label.device),
        )
        self.clean_dice = self._dice(prediction, self.label)
        self.parameters: Parameters = self.bound.zeros()
        self.objective = torch.full_like(self.clean_dice, -torch.inf)
        self.solved = torch.zeros(scene.batch, dtype=torch.bool, device=scene.image.device)
        self.zero_fractions: list[torch.Tensor] = []
        self.history: list[torch.Tensor] = []
        self._search()

    def _dice(self, prediction: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        return mean_foreground_dice(prediction, reference, self.network_classes, self.activation)

    def _is_success(self, dice: torch.Tensor, clean_dice: torch.Tensor) -> torch.Tensor:
        if self.attack.targeted:
            return dice >= self.attack.success_threshold
        return dice < self.attack.success_threshold * clean_dice

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
                self.predictor.use_samples(left)
                self._restart(restart, left, bar)
        self.predictor.use_samples(range(self.scene.batch))

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
        )
        for step in ascent:
            self.backwards += step.found.backwards * len(left)
            self._keep_best(left, step.parameters, step.found.ranks)
            self.zero_fractions.append(self._spread(left, ascent.bound.frozen_fraction(step.found.gradients)))
            bar.update()
            if attack.early_stop:
                keep = self._unsolved(ascent.bound, step.found.logits, left)
                if not keep:
                    return
                if len(keep) < len(left):
                    rows = torch.as_tensor(keep, device=scene.image.device)
                    left = [left[i] for i in keep]
                    self.predictor.use_samples(left)
                    scene, target = scene.select(keep), target.select(rows)
                    ascent.select(rows, attack.perturbation.bind(scene), target)
        self._keep_best(left, ascent.parameters, ascent.last_ranks())

    def _unsolved(self, bound: BoundPerturbation, logits: torch.Tensor, left: list[int]) -> list[int]:
        """Positions in ``left`` that have not succeeded at the point that was just evaluated."""
        where = torch.as_tensor(left, device=logits.device)
        best = tuple(p.index_select(0, where) for p in self.parameters)
        with torch.no_grad():
            label = self.label.index_select(0, where)
            moved = label if self.attack.targeted else bound.move_label(label, best)
            dice = self._dice(hard_prediction(logits, self.activation), moved)
            # The logits belong to the point of this step: it counts where that point is the best so far.
            success = self._is_success(dice, self.clean_dice[where]) & self.latest_is_best
        self.solved[where] |= success
        return [i for i, solved in enumerate(success.tolist()) if not solved]

    def _keep_best(self, left: list[int], parameters: Parameters, values: torch.Tensor) -> None:
        values = values.detach().to(self.objective.dtype)
        if len(left) == self.scene.batch:
            better = values > self.objective
            self.objective = torch.where(better, values, self.objective)
            self.parameters = tuple(
                torch.where(per_sample(better, new), new, old)
                for new, old in zip(parameters, self.parameters, strict=True)
            )
        else:
            where = torch.as_tensor(left, device=values.device)
            old_values = self.objective[where]
            better = values > old_values
            self.objective = self.objective.index_copy(0, where, torch.where(better, values, old_values))
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

    def finish(self, image: torch.Tensor, label: torch.Tensor | None) -> AttackResult:
        """Build the finished image, verify its budget and score it."""
        attack, clean = self.attack, self.scene.image
        lost = torch.isneginf(self.objective).nonzero().flatten().tolist()
        if lost:
            raise RuntimeError(
                f"the objective was NaN at every step for sample {lost[0]}: check the network under "
                f"{self.predictor.precision}."
            )
        with torch.no_grad():
            adversarial = self.bound.apply(clean, self.parameters)
            stored = self.scene.stored
            if stored is not None:
                adversarial = self.bound.quantize(clean, adversarial, self.parameters)
            rounding = 0.0 if stored is None else stored.rounding
            budgets = self.bound.verify(clean, adversarial, self.parameters, rounding)
            moved = self.label if attack.targeted else self.bound.move_label(self.label, self.parameters)
            dice = self._dice(hard_prediction(self.predictor.score(adversarial), self.activation), moved)
            whole = self.predictor.model.whole_image(adversarial, detached(image))
        return AttackResult(
            adversarial=convert_to_dst_type(whole, dst=image)[0],
            label=moved if label is None else convert_to_dst_type(moved, dst=label)[0],
            parameters=self.parameters,
            objective=self.objective,
            objective_history=torch.stack(self.history),
            success=self._is_success(dice, self.clean_dice),
            clean_dice=self.clean_dice,
            adversarial_dice=dice,
            budgets=budgets,
            forwards=self.predictor.forwards,
            backwards=self.backwards,
            queries=self.predictor.forwards - self.backwards,
            zero_gradient_fraction=torch.stack(self.zero_fractions).nanmean(dim=0),
            reference_is_prediction=label is None,
            image=clean,
            bound=self.bound,
            image_channels=self.predictor.model.image_channels,
            clean_label=self.label,
        )
