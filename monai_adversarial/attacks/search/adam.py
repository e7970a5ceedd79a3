# SPDX-License-Identifier: Apache-2.0
"""Adam with projection, per sample."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.attacks.search.base import Search, SearchRun
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["ProjectedAdam"]


class ProjectedAdam(Search):
    """Adam ascent (Kingma and Ba 2015) with projection after each step; with ``amsgrad`` the PAdam of segmentation
    benchmarks.

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
