# SPDX-License-Identifier: Apache-2.0
"""Steps that grow with the overlap reached, against the length of the change: the search of ASMA."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.additive import BoundAdditiveNoise
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.search.base import Search, SearchRun
from monai_adversarial.utils.validation import check_choice, check_fraction, check_positive

__all__ = ["AdaptiveMultiplier"]

STEPS = ("raw", "rms")


class AdaptiveMultiplier(Search):
    """Ascends the objective minus the squared length of the change, with steps of ``beta * value + tau``.

    Values are the IoU with a wanted segmentation (``UnmatchedLogits``): the higher, the larger the step. Lengths are
    in units of the intensity range, which counts as 1: the paper's images lie between 0 and 1. Of the points that reach
    ``goal`` the attack keeps the one with the smallest Euclidean length, and where none does, the one with the highest
    value.

    >>> from monai_adversarial.attacks import AdaptiveMultiplier, AdditiveNoise, Attack, UnmatchedLogits
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> wanted = label * (label != 3)  # without the lesion
    >>> search, noise = AdaptiveMultiplier(step="rms", tau=0.01), AdditiveNoise(30, units="HU")
    >>> attack = Attack(noise, UnmatchedLogits(), search, steps=8, targeted=True, random_start=False)
    >>> result = attack(model, image, wanted)
    >>> bool(result.iou > result.clean_iou)
    True

    Args:
        beta: growth of the step with the value; None for 1e-6 with raw steps (the paper's) and 1e-3 otherwise.
        tau: smallest step; None for 1e-7 with raw steps (the paper's) and 1e-4 otherwise.
        step: ``"raw"``: the gradient itself, which depends on the number of voxels that are unmatched; ``"rms"``: the
            gradient divided by its root mean square over the voxels that may change.
        goal: value from which on the smallest change is the best.
        value_range: HU (for an image in HU) or network values that count as 1; None for the intensity window, or 1
            where the budget is in network values.

    Raises:
        ValueError: for a number that is not positive, an unknown step, and, with ``value_range=None``, an image whose
            intensity window is not known.
        TypeError: for a perturbation that is not ``AdditiveNoise``.
    """

    def __init__(
        self,
        beta: float | None = None,
        tau: float | None = None,
        step: str = "rms",
        goal: float = 0.9,
        value_range: float | None = None,
    ) -> None:
        self.step = check_choice("step", step, STEPS)
        raw = self.step == "raw"
        self.beta = check_positive("beta", (1e-6 if raw else 1e-3) if beta is None else beta, allow_zero=True)
        self.tau = check_positive("tau", (1e-7 if raw else 1e-4) if tau is None else tau, allow_zero=True)
        self.goal = check_fraction("goal", goal)
        self.value_range = None if value_range is None else check_positive("value_range", value_range)

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        if not isinstance(bound, BoundAdditiveNoise):
            raise TypeError(f"AdaptiveMultiplier moves AdditiveNoise only, got {type(bound).__name__}.")
        return _AdaptiveMultiplierRun(self, bound, steps)


class _AdaptiveMultiplierRun(SearchRun):
    def __init__(self, search: AdaptiveMultiplier, bound: BoundAdditiveNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search

    def _range(self) -> float | torch.Tensor:
        """What counts as 1, in image units; one number, or one for each sample and channel."""
        bound, search = self.bound, self.search
        assert isinstance(bound, BoundAdditiveNoise)
        if search.value_range is not None:
            return search.value_range
        known = bound.scene.intensity
        if known is not None and known.window is not None:
            return bound.scene.in_image_units(1.0, "fraction")
        if bound.units == "network":
            return bound.scene.in_image_units(1.0, "network")
        raise ValueError(
            "value_range is missing: the steps are shares of the intensity range, which this model does not say; pass "
            "value_range=(HU that count as 1)."
        )

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        search, bound = self.search, self.bound
        assert isinstance(bound, BoundAdditiveNoise)
        whole = self._range()
        change = parameters[0] / whole
        # The gradient of the objective minus the squared length, with respect to shares of the range.
        direction = gradients[0] * whole - 2 * change
        if search.step == "rms":
            direction = direction if bound.mask is None else direction * bound.mask
            root = direction.flatten(1).norm(dim=1) / bound.count.to(direction.dtype).sqrt()
            direction = direction / per_sample(root.clamp_min(torch.finfo(root.dtype).tiny), direction)
        size = search.beta * values + search.tau
        return bound.project(((change + per_sample(size, change) * direction) * whole,))

    def preference(self, parameters: Parameters, values: torch.Tensor) -> torch.Tensor:
        """Above the goal the shortest change, by a number above all values; below it the value."""
        length = (parameters[0].detach() / self._range()).flatten(1).norm(dim=1)
        return torch.where(values >= self.search.goal, 1 + 1 / (1 + length), values)
