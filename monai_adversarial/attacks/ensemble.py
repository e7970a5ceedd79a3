# SPDX-License-Identifier: Apache-2.0
"""Several attacks as one: the worst outcome of each sample counts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.ensemble_run import EnsembleRun
from monai_adversarial.attacks.perturbations.base import Perturbation
from monai_adversarial.utils.calls import shown
from monai_adversarial.utils.validation import check_count, check_instance

__all__ = ["AttackEnsemble", "Member"]


@dataclass(frozen=True)
class Member:
    """One attack of an ensemble.

    >>> from monai_adversarial.attacks import APGD, AttackEnsemble, Member, SquareAttack
    >>> from monai_adversarial.data.example import example_case
    >>> first = Member("apgd", APGD(16, "HU", steps=4))
    >>> second = Member("square", SquareAttack(16, "HU", queries=10), continues=True)
    >>> AttackEnsemble([first, second])(*example_case(16)).members
    ('apgd', 'square')

    Args:
        name: for reports.
        attack: what it does.
        continues: it begins at the best point of the members before it, instead of a start of its own.
        erase: it is targeted at a segmentation without any organ, whatever the label; ``attack`` must be targeted.
    """

    name: str
    attack: Attack
    continues: bool = False
    erase: bool = False


class AttackEnsemble(Attack):
    """Several attacks within one budget, one after the other; of each sample the outcome with the lowest Dice counts.

    The next member works only on the samples that are not broken yet: with ``early_stop`` those that have not
    succeeded, otherwise those of which any Dice is left. Members differ in objective, search, gradient and steps and
    share the perturbation, so that the outcome has one budget, which is verified on it. All passes are counted, and the
    :class:`~monai_adversarial.attacks.EnsembleResult` says what each member did and which signs of masked gradients
    there are.

    >>> from monai_adversarial.attacks import APGD, PGD, AttackEnsemble
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> attack = AttackEnsemble([PGD(4, units="HU", steps=3), APGD(4, units="HU", steps=3)])
    >>> result = attack(model, image, label)
    >>> bool((result.adversarial_dice <= result.member_dice.nan_to_num(1)).all())
    True

    Args:
        members: attacks or :class:`Member` objects with equal perturbations.
        early_stop: leave samples alone as soon as one member has succeeded; otherwise every member has its turn.
        success_threshold: see :class:`~monai_adversarial.attacks.Attack`.
        seed: of all members, instead of their own; None to leave those.

    Raises:
        TypeError: for members that are no attacks.
        ValueError: for no member, or members whose perturbations, goals or scales of success differ.
    """

    _run_type = EnsembleRun

    def __init__(
        self,
        members: Sequence[Attack | Member],
        *,
        early_stop: bool = False,
        success_threshold: float = 0.5,
        seed: int | None = None,
    ) -> None:
        if isinstance(members, (Attack, Member)) or not members:
            raise ValueError(f"members must be a sequence of at least one attack, got {members!r}.")
        self.members = tuple(
            one if isinstance(one, Member) else Member(_name(one, number, members), one)
            for number, one in enumerate(members)
        )
        first = self.members[0].attack
        for member in self.members:
            check_instance("members", member.attack, Attack, "PGD(8, units='HU')")
            if isinstance(member.attack, AttackEnsemble):
                raise TypeError("members must be single attacks, got an AttackEnsemble: hand over its members.")
            if _settings(member.attack.perturbation) != _settings(first.perturbation):
                raise ValueError(
                    "members must share one perturbation, so that the outcome has one budget, got "
                    f"{first.perturbation!r} and {member.attack.perturbation!r}."
                )
            if member.attack.targeted != (member.erase or first.targeted and not self.members[0].erase):
                raise ValueError(
                    f"members must have one goal: {member.name!r} is "
                    f"{'' if member.attack.targeted else 'not '}targeted, unlike {self.members[0].name!r}."
                )
        seed = first.seed if seed is None else check_count("seed", seed, minimum=0)
        super().__init__(
            first.perturbation,
            first.objective,
            first.search,
            first.gradient,
            steps=sum(member.attack.steps * member.attack.restarts for member in self.members),
            targeted=first.targeted and not self.members[0].erase,
            classes=first.classes,
            early_stop=early_stop,
            success_threshold=success_threshold,
            seed=seed,
        )

    def scaled(self, budget: float = 1.0, steps: int | None = None) -> AttackEnsemble:
        """The same ensemble with ``budget`` times its budget.

        Args:
            budget: factor; see ``Perturbation.scaled``.
            steps: of all members together, shared out as now; None for the same.
        """
        made = copy.copy(self)
        made.perturbation = self.perturbation.scaled(budget)
        factor = 1.0 if steps is None else check_count("steps", steps) / self.steps
        made.members = tuple(
            replace(one, attack=one.attack.scaled(budget, max(1, round(one.attack.steps * factor))))
            for one in self.members
        )
        made.steps = sum(member.attack.steps * member.attack.restarts for member in made.members)
        made._afterwards = (*self._afterwards, f".scaled({budget!r}, {made.steps})")
        return made

    def perturb(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused: training takes one attack with one point, not the worst of several."""
        raise NotImplementedError(
            f"{type(self).__name__} is for evaluation: train with one of its members, for example PGD."
        )


def _settings(perturbation: Perturbation) -> str:
    """What a perturbation was made with, as it understood it: 8 and 8.0 HU are the same."""
    kept = {name: value for name, value in vars(perturbation).items() if name != "_given"}
    return f"{type(perturbation).__name__}({shown(kept)})"


def _name(attack: Any, number: int, members: Sequence[Any]) -> str:
    kind = type(attack).__name__
    return kind if sum(type(one) is type(attack) for one in members) == 1 else f"{kind} {number + 1}"
