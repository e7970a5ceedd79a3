# SPDX-License-Identifier: Apache-2.0
"""Several attacks on one batch, of which the worst one counts for each sample."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import torch

from monai_adversarial.attacks.flags import Flag, MemberTrace, find_flags
from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.scored_run import Finished, ScoredRun

if TYPE_CHECKING:
    from monai_adversarial.attacks.ensemble import AttackEnsemble, Member

__all__ = ["EnsembleResult", "EnsembleRun"]


@dataclass
class EnsembleResult(AttackResult):
    """The outcome of several attacks: the worst of each sample, and what each of them did.

    >>> from monai_adversarial.attacks import FGSM, PGD, AttackEnsemble, Member
    >>> from monai_adversarial.data.example import example_case
    >>> members = [Member("fgsm", FGSM(16, "HU")), Member("pgd", PGD(16, "HU", steps=4))]
    >>> result = AttackEnsemble(members)(*example_case(16))
    >>> kept = result.member_dice[int(result.worst_member), 0]
    >>> result.member_dice.shape, bool(kept == result.adversarial_dice), len(result.member_passes)
    (torch.Size([2, 1]), True, 2)

    Args:
        members: names, in the order in which they ran.
        member_dice: mean foreground Dice that each member left, (members, batch); NaN where it did not run because
            the sample was broken.
        member_passes: forward and backward passes of one sample that each member took, all samples together.
        worst_member: number of the member that is kept, (batch,); -1 where none left less than the clean image.
        flags: signs that gradients are masked and the result may still be too good.

    The other arguments are those of :class:`AttackResult`. ``objective`` is the negative Dice (the Dice of a targeted
    attack), ``objective_history`` has one row for each member.
    """

    members: tuple[str, ...] = ()
    member_dice: torch.Tensor = field(default_factory=lambda: torch.empty(0, 0))
    member_passes: tuple[tuple[int, int], ...] = ()
    worst_member: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long), repr=False)
    flags: tuple[Flag, ...] = ()

    def __str__(self) -> str:
        """The lines of an attack, one for each member and one for each flag."""
        lines = [super().__str__()]
        for number, name in enumerate(self.members):
            dice = self.member_dice[number]
            ran = dice[~dice.isnan()]
            forwards, backwards = self.member_passes[number]
            what = f"mean Dice {float(ran.mean()):.3f} of {len(ran)}" if len(ran) else "not needed"
            kept = int((self.worst_member == number).sum())
            lines.append(f"  {name}: {what}, worst of {kept}; {forwards} forward and {backwards} backward passes")
        return "\n".join([*lines, *(f"  {flag}" for flag in self.flags)])


class EnsembleRun(ScoredRun):
    """As ``ScoredRun``; every member of the ensemble is a run of its own on the samples that are left."""

    attack: AttackEnsemble

    def _search(self) -> None:
        scene, batch = self.scene, self.scene.batch
        attack = self.attack
        self.dice = self.clean_score.clone()
        image, self.worst_prediction = scene.image, self.clean_prediction
        self.worst = torch.full((batch,), -1, dtype=torch.long, device=scene.image.device)
        self.member_dice: list[torch.Tensor] = []
        self.member_passes: list[tuple[int, int]] = []
        self.traces: list[MemberTrace] = []
        for number, member in enumerate(attack.members):
            left = self._left()
            before = (self.predictor.forwards, self.backwards)
            spread = torch.full_like(self.dice, torch.nan)
            if left:
                rows = torch.as_tensor(left, device=scene.image.device)
                run = self._run(member, left)
                found_image, found_prediction = run.outcome()
                self.backwards += run.backwards
                dice = self.reference.select(rows).score(found_prediction)
                spread[rows] = dice
                better = torch.zeros_like(self.solved)
                better[rows] = self._worse(dice, self.dice[rows])
                image = _replaced(image, found_image, better, rows)
                self.worst_prediction = _replaced(self.worst_prediction, found_prediction, better, rows)
                self.parameters = tuple(
                    _replaced(old, new, better, rows) for old, new in zip(self.parameters, run.parameters, strict=True)
                )
                self.dice = torch.where(better, spread, self.dice)
                self.worst = torch.where(better, number, self.worst)
                self._trace(member, left, run, spread)
            self.member_dice.append(spread)
            self.member_passes.append((self.predictor.forwards - before[0], self.backwards - before[1]))
            self.history.append(self._rank(spread))
        self._use(range(batch))
        self.objective = self._rank(self.dice)
        self.last = Finished(image, self.worst_prediction, torch.ones_like(self.solved))

    def _trace(self, member: Member, left: list[int], run: ScoredRun, dice: torch.Tensor) -> None:
        """Keep of a run what flags need, a few numbers for each sample."""
        zeros = torch.stack(run.zero_fractions).nanmean(dim=0)
        self.zero_fractions.append(self._spread(left, zeros))
        self.traces.append(
            MemberTrace(
                member.name,
                member.attack.by_queries,
                member.attack.gradient.averages,
                dice,
                self._spread(left, run.objective - run.history[0]),
                self._spread(left, zeros),
            )
        )

    def _left(self) -> list[int]:
        """Samples that are not broken yet. One host synchronization for each member, none inside."""
        attack = self.attack
        if attack.early_stop:
            broken = self._succeeded(self.dice, self.clean_score, self.worst_prediction, self.target)
        elif attack.targeted:
            broken = self.dice >= 1.0
        else:
            broken = self.dice <= 0.0
        return [row for row, done in enumerate(broken.tolist()) if not done]

    def _rank(self, dice: torch.Tensor) -> torch.Tensor:
        return dice if self.attack.targeted else -dice

    def _worse(self, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        """Whether an outcome is to be kept instead of another one; where no Dice is defined, any outcome is as good."""
        return (self._rank(new) > self._rank(old)) | (old.isnan() & ~new.isnan())

    def _run(self, member: Member, left: list[int]) -> ScoredRun:
        start = None
        if member.continues and bool((self.worst >= 0).any()):
            rows = torch.as_tensor(left, device=self.scene.image.device)
            start = tuple(parameter.index_select(0, rows) for parameter in self.parameters)
        self._use(left)
        return self._inner(member.attack, left, start, _without_organs if member.erase else None)

    def finish(self, image: torch.Tensor, label: torch.Tensor | None) -> EnsembleResult:
        """See ``ScoredRun.finish``."""
        known = super().finish(image, label)
        dice = torch.stack(self.member_dice)
        return EnsembleResult(
            **{one.name: getattr(known, one.name) for one in fields(known)},
            members=tuple(member.name for member in self.attack.members),
            member_dice=dice,
            member_passes=tuple(self.member_passes),
            worst_member=self.worst,
            flags=tuple(find_flags(self.traces, self.clean_score, self.predictor.model)),
        )


def _without_organs(label: torch.Tensor, reference: Reference) -> torch.Tensor:
    """The same label without any organ; what is ignored in it stays ignored."""
    one_hot = label.shape[1] > 1 and reference.activation == "softmax"
    empty = torch.zeros_like(label)
    if one_hot:
        empty[:, :1] = 1
    return empty if reference.valid is None else torch.where(reference.valid, empty, label)


def _replaced(old: torch.Tensor, new: torch.Tensor, better: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``old`` of the whole batch with those rows of ``new`` that are better."""
    whole = old.index_copy(0, rows, new.to(old.dtype))
    return torch.where(per_sample(better, old), whole, old)
