# SPDX-License-Identifier: Apache-2.0
"""A search that looks at the extremes of the budget before it follows gradients."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, Perturbation
from monai_adversarial.attacks.search.base import Search, SearchRun
from monai_adversarial.utils.validation import check_instance

__all__ = ["ExtremesFirst", "looking_first"]


class ExtremesFirst(Search):
    """The first steps evaluate the extremes of the budget, the others follow gradients.

    A gain of all voxels darkens or brightens. Both lower the score a little near the clean image, and which of them a
    gradient follows to its end is a matter of the start, whereas one may be worth several times the other. What is
    found there is kept where nothing better follows. The look costs as many steps as there are extremes
    (``BoundPerturbation.extremes``): at most half of a run, rounded up, or all but its last step where the perturbation
    is made of few numbers that have them. Runs of fewer steps, perturbations without extremes, starts that were given,
    restarts and training are left to the inner search.

    >>> from monai_adversarial.attacks import Attack, BiasField, ExtremesFirst, SteepestAscent
    >>> from monai_adversarial.data.example import example_case
    >>> attack = Attack(BiasField(0.3), search=ExtremesFirst(SteepestAscent(1.0, schedule="linear")), steps=4)
    >>> result = attack(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice), result.backwards
    (True, 4)

    Args:
        search: follows the gradients.
        from_best: go on from the best extreme, and take its gradient along; False: from the random start, for extremes
            that are ends of the way rather than its beginning.

    Raises:
        ValueError: for a search that asks queries.

    Source: our own.
    """

    def __init__(self, search: Search, from_best: bool = False) -> None:
        self.search = check_instance("search", search, Search, "SteepestAscent()")
        self.from_best = bool(from_best)
        if not search.uses_gradients:
            raise ValueError(f"search must follow gradients, got {search}: queries have random starts of their own.")

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        return _ExtremesFirstRun(self, bound, steps)


def looking_first(perturbation: Perturbation, search: Search) -> Search:
    """``search``, which looks at the extremes of the perturbation first where it has some."""
    if perturbation.extremes_are is None:
        return search
    return ExtremesFirst(search, from_best=perturbation.extremes_are == "starts")


class _ExtremesFirstRun(SearchRun):
    def __init__(self, search: ExtremesFirst, bound: BoundPerturbation, steps: int) -> None:
        super().__init__(bound, steps)
        self.search, self.from_best = search.search, search.from_best
        self.inner = self.search.begin(bound, steps)
        #: how many steps are not the inner search's
        self.looks = 0

    def first(self, parameters: Parameters) -> Parameters:
        self.inner.stream = self.stream
        return self.inner.first(parameters)

    def look_around(self, parameters: Parameters) -> Parameters:
        extremes = self.bound.extremes()
        # What is left has to be a search where most of the numbers have no extremes.
        numbers = sum(parameter[0].numel() for parameter in parameters)
        most = self.steps - 1 if 2 * len(extremes) >= numbers else (self.steps + 1) // 2
        if not 0 < len(extremes) <= most:
            return self.inner.look_around(parameters)
        # The last look is a step of the inner search where that goes on from there.
        self.looks = len(extremes) - self.from_best
        self.points["start"] = parameters
        # Made once: what some of them are is known to the host alone, and nothing in the loop waits for it.
        self.points.update((f"extreme {number}", extreme) for number, extreme in enumerate(extremes) if number)
        self.inner = self.search.begin(self.bound, self.steps - self.looks)
        self.inner.stream = self.stream
        return extremes[0]

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        if self.from_best and step <= self.looks and "start" in self.points:
            # A point and its gradient are kept together.
            both = self.best((*parameters, *gradients), values)
            parameters, gradients, values = both[: len(parameters)], both[len(parameters) :], self.state["best"]
        if step < self.looks:
            return self.points.pop(f"extreme {step + 1}", self.points["start"])
        self.inner.found = self.found
        return self.inner.advance(parameters, gradients, values, step - self.looks)

    def preference(self, parameters: Parameters, values: torch.Tensor) -> torch.Tensor:
        return self.inner.preference(parameters, values)

    def select(self, indices: torch.Tensor, bound: BoundPerturbation) -> None:
        super().select(indices, bound)
        self.inner.select(indices, bound)
