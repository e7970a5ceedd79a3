# SPDX-License-Identifier: Apache-2.0
"""Proximal splitting for the smallest L-infinity norm."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["ALMAProxSearch", "nearest_with_small_largest"]

HALVINGS = 40


def nearest_with_small_largest(
    noise: torch.Tensor, weight: torch.Tensor, metric: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """Minimizes ``weight * max |z| + sum of metric * (z - noise)^2 / 2`` over ``z`` between ``low`` and ``high``.

    Its solution is ``noise`` clipped to a largest size: the one at which the clipped parts, weighted by the metric, add
    up to ``weight``. It is found by halving.

    >>> import torch
    >>> from monai_adversarial.attacks.search.alma import nearest_with_small_largest
    >>> wide = torch.full((1, 1, 2), 9.0)
    >>> ones, noise = torch.ones(1), torch.tensor([[[3.0, 1.0]]])
    >>> nearest_with_small_largest(noise, ones, torch.ones(1, 1, 2), -wide, wide).round(decimals=3)
    tensor([[[2., 1.]]])

    Args:
        noise: (batch, channel, spatial...).
        weight: of the norm, (batch,).
        metric: of the distance, > 0, like ``noise``.
        low: <= 0.
        high: >= 0.
    """
    inside = torch.maximum(torch.minimum(noise, high), low)
    sizes = inside.abs().flatten(1)
    # Beyond the box the distance is to the noise itself, whose part outside does not shrink.
    outer, metrics = noise.abs().flatten(1), metric.flatten(1)
    below, above = torch.zeros_like(weight), sizes.amax(dim=1)
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        edge = middle[:, None]
        pull = (metrics * (outer - edge) * (sizes > edge)).sum(dim=1)
        low_enough = pull <= weight
        above, below = torch.where(low_enough, middle, above), torch.where(low_enough, below, middle)
    edge = per_sample(above, noise)
    return torch.maximum(torch.minimum(inside, edge), -edge)


class ALMAProxSearch(MinimalSearch):
    """Gradient steps in the metric of the root-mean-square gradient, each followed by the proximal step of the norm.

    The step falls to a tenth from a sample's first success on.

    >>> from monai_adversarial.attacks import ALMAProxSearch, AugmentedLagrangian, MinimalNoise, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> attack = MinimalNormAttack(MinimalNoise("linf", units="HU"), AugmentedLagrangian(), ALMAProxSearch(), steps=10)
    >>> result = attack(*example_case(16))
    >>> result.backwards, result.norm
    (10, 'linf')

    Args:
        step: the first step size in spans, the paper's lambda, 0.001.
        last_step: share of it that is left at the end, 0.1.
        smoothing: of the squared gradients, 0.8.

    Source: Rony, Pesquet, Ben Ayed, "Proximal splitting adversarial attack for semantic segmentation", CVPR 2023,
    algorithm 1; use it with :class:`~monai_adversarial.attacks.AugmentedLagrangian`.
    """

    norms = ("linf",)

    def __init__(self, step: float = 1e-3, last_step: float = 0.1, smoothing: float = 0.8) -> None:
        self.step = check_positive("step", step)
        self.last_step = check_fraction("last_step", last_step)
        self.smoothing = check_fraction("smoothing", smoothing)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _ALMAProxRun(self, bound, steps)


class _ALMAProxRun(MinimalSearchRun):
    def __init__(self, search: ALMAProxSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        image = bound.scene.image
        self.points["square"] = (torch.zeros_like(image),)
        self.voxels = image[0, 0].numel()
        self.state["first"] = image.new_full((image.shape[0],), steps // 2)
        self.state["found"] = torch.zeros(image.shape[0], dtype=torch.bool, device=image.device)

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        search, state = self.search, self.state
        if step < self.steps // 2:
            state["first"] = torch.where(success & ~state["found"], float(step), state["first"])
        state["found"] = state["found"] | success
        slope = -gradient * self.voxels  # of the sum of costs
        square = search.smoothing * self.points["square"][0] + (1 - search.smoothing) * slope.square()
        self.points["square"] = (square,)
        metric = (square / (1 - search.smoothing ** (step + 1))).sqrt().clamp_min(1e-8)
        size = torch.full_like(values, search.step)
        if search.last_step < 1:
            tangent = search.last_step / (1 - search.last_step) * (self.steps - state["first"]).clamp_min(1)
            size = size * tangent / ((step - state["first"]).clamp_min(0) + tangent)
        down, up = self.room
        moved = noise - per_sample(size, noise) * slope / metric
        return nearest_with_small_largest(moved, size, metric, down, up)
