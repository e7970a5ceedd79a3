# SPDX-License-Identifier: Apache-2.0
"""Adam with projection, per sample."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.attacks.search.base import Search, SearchRun
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["CoordinateAdam", "ProjectedAdam"]


class ProjectedAdam(Search):
    """Adam ascent (Kingma and Ba 2015) with projection after each step; with ``amsgrad`` the PAdam of segmentation
    benchmarks.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, ProjectedAdam
    >>> from monai_adversarial.data.example import example_case
    >>> attack = Attack(AdditiveNoise(16, units="HU"), search=ProjectedAdam(relative_step=0.5, amsgrad=True), steps=5)
    >>> result = attack(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        relative_step: learning rate as a fraction of the budget's radius.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        amsgrad: use the running maximum of the second moment.

    Source: Kingma and Ba, "Adam", ICLR 2015, with projection; the segmentation evaluation suite of 2024 uses it with
    ``amsgrad``.

    Survey entry: X05 (adapted).
    """

    def __init__(
        self, relative_step: float = 0.1, beta1: float = 0.9, beta2: float = 0.999, amsgrad: bool = False
    ) -> None:
        self.relative_step = check_positive("relative_step", relative_step)
        self.beta1, self.beta2 = check_fraction("beta1", beta1), check_fraction("beta2", beta2)
        if self.beta1 == 1.0 or self.beta2 == 1.0:
            raise ValueError(f"beta1 and beta2 must be below 1, got {beta1!r} and {beta2!r}.")
        self.amsgrad = bool(amsgrad)

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        return _ProjectedAdamRun(self, bound, steps)


class _ProjectedAdamRun(SearchRun):
    def __init__(self, search: ProjectedAdam, bound: BoundPerturbation, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        search, state = self.search, self.points
        if step == 0:
            for name in ("first", "second", "highest"):
                state[name] = tuple(torch.zeros_like(gradient) for gradient in gradients)
        # Gradients of a mean over a million voxels square to less than the smallest float32: bring each
        # sample to unit scale first.
        if step == 0:
            state["scale"] = tuple(
                g.flatten(1).abs().amax(dim=1).clamp_min(torch.finfo(g.dtype).tiny).view(-1, *([1] * (g.ndim - 1)))
                for g in gradients
            )
        unit = tuple(gradient / scale for gradient, scale in zip(gradients, state["scale"], strict=True))
        first = tuple(search.beta1 * m + (1 - search.beta1) * g for m, g in zip(state["first"], unit, strict=True))
        second = tuple(
            search.beta2 * v + (1 - search.beta2) * g * g for v, g in zip(state["second"], unit, strict=True)
        )
        highest = (
            tuple(torch.maximum(a, b) for a, b in zip(state["highest"], second, strict=True))
            if search.amsgrad
            else second
        )
        state["first"], state["second"], state["highest"] = first, second, highest
        correction1 = 1 - search.beta1 ** (step + 1)
        correction2 = 1 - search.beta2 ** (step + 1)
        moved = tuple(
            parameter + search.relative_step * radius * (m / correction1) / ((v / correction2).sqrt() + 1e-8)
            for parameter, m, v, radius in zip(parameters, first, highest, self.bound.radii, strict=True)
        )
        return self.bound.project(moved)


class CoordinateAdam(Search):
    """Adam for gradients of few coordinates (ADAM of ZOO): those with a gradient of exactly zero stay where they are,
    and each has moments and a count of steps of its own.

    Moments are of gradients relative to the largest one of the step, in units of the budget's radius.

    Source: Chen et al., "ZOO", AISec 2017 (algorithm 2; its step of 0.01 in an unbounded space is here a share of a
    box, and larger, because a coordinate is seen but once or twice in a budget of queries for volumes).

    Survey entry: A13 (adapted).

    Args:
        relative_step: length of a coordinate's first step as a fraction of the budget's radius.
        beta1: decay of the first moment.
        beta2: decay of the second moment.

    Example:
        >>> from monai_adversarial.attacks import AdditiveNoise, Attack, CoordinateAdam
        >>> from monai_adversarial.data.example import example_case
        >>> result = Attack(AdditiveNoise(16, units="HU"), search=CoordinateAdam(), steps=2)(*example_case())
        >>> bool(result.adversarial_dice < result.clean_dice)
        True
    """

    def __init__(self, relative_step: float = 1.0, beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.relative_step = check_positive("relative_step", relative_step)
        self.beta1, self.beta2 = check_fraction("beta1", beta1), check_fraction("beta2", beta2)
        if self.beta1 == 1.0 or self.beta2 == 1.0:
            raise ValueError(f"beta1 and beta2 must be below 1, got {beta1!r} and {beta2!r}.")

    def begin(self, bound: BoundPerturbation, steps: int) -> SearchRun:
        """Start on a batch."""
        return _CoordinateAdamRun(self, bound, steps)


class _CoordinateAdamRun(SearchRun):
    def __init__(self, search: CoordinateAdam, bound: BoundPerturbation, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search

    def advance(self, parameters: Parameters, gradients: Parameters, values: torch.Tensor, step: int) -> Parameters:
        search, state = self.search, self.points
        if step == 0:
            for name in ("first", "second", "seen"):
                state[name] = tuple(torch.zeros_like(gradient) for gradient in gradients)
        radii = self.bound.radii
        slopes = tuple(gradient * radius for gradient, radius in zip(gradients, radii, strict=True))
        largest = torch.stack([slope.flatten(1).abs().amax(dim=1) for slope in slopes]).amax(dim=0)
        largest = largest.clamp_min(torch.finfo(largest.dtype).tiny)
        moved, kept = [], []
        for number, (parameter, slope, radius) in enumerate(zip(parameters, slopes, radii, strict=True)):
            first, second, seen = (state[name][number] for name in ("first", "second", "seen"))
            here = slope != 0
            unit = slope / per_sample(largest, slope)
            seen = seen + here
            first = torch.where(here, search.beta1 * first + (1 - search.beta1) * unit, first)
            second = torch.where(here, search.beta2 * second + (1 - search.beta2) * unit * unit, second)
            mean = first / (1 - search.beta1 ** seen.clamp_min(1))
            size = (second / (1 - search.beta2 ** seen.clamp_min(1))).sqrt() + 1e-8
            moved.append(parameter + torch.where(here, search.relative_step * radius * mean / size, 0.0))
            kept.append((first, second, seen))
        for position, name in enumerate(("first", "second", "seen")):
            state[name] = tuple(one[position] for one in kept)
        return self.bound.project(tuple(moved))
