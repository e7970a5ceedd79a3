# SPDX-License-Identifier: Apache-2.0
"""New random draws, of which the best is kept: the baseline of every search without gradients."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.attacks.search.base import Search, SearchRun

__all__ = ["RandomSearch"]


class RandomSearch(Search):
    """Each step tries a new draw of the perturbation's own ``random``; what was worst for the network is kept.

    With ``n`` steps and a random start it asks about ``n`` independent draws, one query of each sample per draw. It
    learns nothing from one draw for the next one, which makes it the baseline that a search by queries must beat, and
    the search of ``WorstOf``.

    Usage::

        Attack(AdditiveNoise(8, units="HU"), search=RandomSearch(), steps=100)

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, RandomSearch
    >>> from monai_adversarial.data.example import example_case
    >>> attack = Attack(AdditiveNoise(8, units="HU"), search=RandomSearch(), steps=6)
    >>> result = attack(*example_case(16))
    >>> result.backwards, bool(result.objective == result.objective_history.max())
    (0, True)
    """

    uses_gradients = False

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        return _RandomSearchRun(bound, steps)


class _RandomSearchRun(SearchRun):
    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        best = self.best(parameters, values)
        return best if step == self.steps - 1 else self.bound.random(self.generators)
