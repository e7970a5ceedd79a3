# SPDX-License-Identifier: Apache-2.0
"""An attack without a fixed budget: of every sample the smallest change that succeeds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

import torch

from monai_adversarial.attacks.ascent import Ascent, Judge
from monai_adversarial.attacks.gradients.base import Evaluation
from monai_adversarial.attacks.objectives import Target
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Measurement, Parameters
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.perturbations.minimal_base import BoundMinimal
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.scored_run import ScoredRun
from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.metrics.success import wrong_fraction

if TYPE_CHECKING:
    from monai_adversarial.attacks.minimal_attack import MinimalNormAttack

__all__ = ["MinimalNormResult", "MinimalRun"]

#: what a point that does not succeed is compared by lies below minus this, far below minus any norm
FAILED = 1e30
#: first share of the noise by which a point is pushed on whose finished image does not succeed
PUSH = 0.02


@dataclass
class MinimalNormResult(AttackResult):
    """The outcome of an attack that looks for the smallest change.

    ``objective`` holds what points were compared by: minus the norm in image units where a sample succeeded, and a
    number below -1e30 where it did not.

    >>> from monai_adversarial.attacks import FMN
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> result = FMN("linf", units="HU", steps=10)(model, image, label)
    >>> bool(result.boundary_distance == (result.adversarial - image).abs().max()), result.smallest_norm.units
    (True, 'HU')

    Args:
        smallest_norm: norm of each finished image's change, in HU where they are known: measured, not what the search
            believed. Of a sample that did not succeed it is the norm of the point nearest to success.
        norm: ``"linf"``, ``"l2"``, ``"l1"`` or ``"l0"`` of noise, ``"displacement"`` of a deformation.

    The other arguments are those of :class:`AttackResult`.
    """

    smallest_norm: Measurement = field(default_factory=lambda: Measurement(torch.empty(0), "network"))
    norm: str = "l2"

    @property
    def boundary_distance(self) -> torch.Tensor:
        """Upper bound of the distance to the decision boundary, (batch,), as ``smallest_norm``: infinite where no
        success was found."""
        return torch.where(self.success, self.smallest_norm.values, torch.inf)

    def __str__(self) -> str:
        """The lines of an attack, and one about the norm."""
        found = ", ".join(f"{value:.4g}" for value in self.boundary_distance.tolist())
        what = self.norm if self.norm == "displacement" else f"{self.norm} norm"
        return f"{super().__str__()}\nsmallest {what} with success: {found} {self.smallest_norm.units}"


class MinimalRun(ScoredRun):
    """As ``ScoredRun``; of every sample it keeps the smallest success, or the point nearest to one."""

    attack: MinimalNormAttack
    bound: BoundMinimal

    def _search(self) -> None:
        super()._search()
        self._settle()

    def _succeeded(
        self, score: torch.Tensor, clean_score: torch.Tensor, prediction: torch.Tensor, target: Target
    ) -> torch.Tensor:
        share = self.attack.wrong_fraction
        if share is None:
            return super()._succeeded(score, clean_score, prediction, target)
        wrong = self._wrong(prediction)
        return wrong <= 1.0 - share if self.attack.targeted else wrong >= share

    def _wrong(self, prediction: torch.Tensor) -> torch.Tensor:
        return wrong_fraction(prediction, self.reference.label, self.reference.valid)

    def _reached(self, prediction: torch.Tensor, parameters: Parameters) -> tuple[torch.Tensor, torch.Tensor]:
        """Whether predictions of the images of some parameters succeed, and how near they come, from 0 to 1, each
        (batch,)."""
        reference = self.reference if self.attack.targeted else self.reference.moved(self.bound, parameters)
        score = reference.score(prediction)
        reached = self._succeeded(score, self.clean_score, prediction, self.target)
        right = score.nan_to_num(1.0) if self.attack.wrong_fraction is None else 1.0 - self._wrong(prediction)
        return reached, right if self.attack.targeted else 1.0 - right

    def _compared(self, reached: torch.Tensor, near: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """One number: every success is above every failure, the smaller of two and the nearer of two is the higher."""
        return torch.where(reached, -norm, -FAILED * (2.0 - near.to(norm.dtype)))

    def _judge(self) -> Judge:
        def judge(bound: BoundPerturbation, parameters: Parameters, found: Evaluation) -> Evaluation:
            assert isinstance(bound, BoundMinimal)
            prediction = found.prediction
            if prediction is None:
                assert found.logits is not None
                prediction = hard_prediction(found.logits, self.activation)
            reached, near = self._reached(prediction, parameters)
            reached = reached & found.values.isfinite()
            return replace(found, success=reached, ranks=self._compared(reached, near, bound.length(parameters[0])))

        return judge

    def _close(self, ascent: Ascent, left: list[int], restart: int) -> None:
        self._ask(left, ascent.parameters)

    def _ask(self, left: list[int], parameters: Parameters) -> torch.Tensor:
        """Keep what the finished image of some parameters shows, in the precision in which it is scored; whether it
        succeeds."""
        image = self._finished(self.bound, parameters)
        reached, near = self._reached(self.predictor.answer(image).prediction, parameters)
        norm = self.bound.finished_length(self.scene.image, image, parameters).to(self.objective.dtype)
        compared = self._compared(reached, near, norm)
        self._keep_best(left, parameters, compared, compared)
        return reached

    @torch.no_grad()
    def _settle(self) -> None:
        """Halve the way between the clean image and the best point, on finished images: rounding to the file's values
        and the network's full precision can undo a success by a hair, and a search rarely ends at the boundary."""
        best, everyone = self.parameters, list(range(self.scene.batch))
        self.objective = torch.full_like(self.objective, -torch.inf)  # nothing was seen of a finished image yet
        self.preferred = self.objective
        share = torch.ones_like(self.objective)
        low, high = torch.zeros_like(share), torch.full_like(share, torch.inf)
        for query in range(self.attack.boundary_queries):
            reached = self._ask(everyone, self.bound.toward(best, share))
            high, low = torch.where(reached, share, high), torch.where(reached, low, share)
            share = torch.where(high.isinf(), 1.0 + PUSH * 2.0**query, (low + high) / 2)

    def finish(self, image: torch.Tensor, label: torch.Tensor | None) -> MinimalNormResult:
        """See ``ScoredRun.finish``."""
        known, share = super().finish(image, label), self.attack.wrong_fraction
        if share is not None:
            known.success_rule = (
                f"at least {share:.0%} of the voxels {'as wanted' if self.attack.targeted else 'wrong'}"
            )
        return MinimalNormResult(
            **{one.name: getattr(known, one.name) for one in fields(known)},
            smallest_norm=self._norm_of(known.budgets[self.bound.size_name], known),
            norm=self.bound.norm,
        )

    def _norm_of(self, measured: Measurement, known: AttackResult) -> Measurement:
        """In HU where samples have one size of it."""
        bound = self.bound
        if not isinstance(bound, BoundMinimalNoise) or bound.norm == "l0" or not self.scene.one_unit:
            return measured
        part = self._finished(bound, known.parameters)
        length = bound.finished_length(self.scene.image, part, known.parameters)
        in_hounsfield = self.scene.in_hounsfield(length)
        return measured if in_hounsfield is None else Measurement(in_hounsfield, "HU")
