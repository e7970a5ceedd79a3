# SPDX-License-Identifier: Apache-2.0
"""An attack that begins in a larger budget and ends in its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from monai_adversarial.attacks.scored_run import ScoredRun

if TYPE_CHECKING:
    from monai_adversarial.attacks.recipes.shrinking import ShrinkingRadius

__all__ = ["ShrinkingRun", "steps_of_phases"]


def steps_of_phases(steps: int, shares: Sequence[float]) -> list[int]:
    """How many of ``steps`` each phase gets, in proportion to ``shares``; the last one what is left, one at least."""
    early = [int(steps * share / sum(shares)) for share in shares[:-1]]
    return [*early, steps - sum(early)]


class ShrinkingRun(ScoredRun):
    """As ``ScoredRun``; the first restart begins where a search in larger budgets has ended, projected into its own."""

    attack: ShrinkingRadius

    def _restart(self, restart: int, left: list[int], bar: tqdm) -> None:
        attack = self.attack
        *early, last = steps_of_phases(attack.steps, [share for _, share in attack.phases])
        start = None
        for (factor, _), steps in zip(attack.phases, early, strict=False):
            if steps:
                start = self._in_larger_budget(factor, steps, restart, start, left, bar)
        # One attack for the loop of the base class: the last phase.
        self.attack = copy.copy(attack)
        self.attack.steps = last
        self.attack.phases = ((1.0, 1.0),)
        self.start = start if start is not None else self.start
        try:
            super()._restart(restart, left, bar)
        finally:
            self.attack = attack

    def _in_larger_budget(
        self,
        factor: float,
        steps: int,
        restart: int,
        start: tuple[torch.Tensor, ...] | None,
        left: list[int],
        bar: tqdm,
    ) -> tuple[torch.Tensor, ...]:
        """The best points within ``factor`` times the budget; they are a start, nothing else is kept of them."""
        attack = self.attack
        larger = copy.copy(attack)
        larger.perturbation, larger.steps, larger.restarts = attack.perturbation.scaled(factor), steps, 1
        larger.early_stop, larger.phases = False, ((1.0, 1.0),)
        first = self.start if restart == 0 else None
        run = self._inner(larger, left, first if start is None else start)
        self.backwards += run.backwards
        bar.update(steps)
        self.zero_fractions.extend(self._spread(left, fractions) for fractions in run.zero_fractions)
        return run.parameters
