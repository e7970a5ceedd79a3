# SPDX-License-Identifier: Apache-2.0
"""Primal-dual proximal gradient descent: the weight of success against the norm is searched along with the noise."""

from __future__ import annotations

import math

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise
from monai_adversarial.attacks.search.fmn import dual_length
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun
from monai_adversarial.attacks.search.proximal import nearest_with_small_norm
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["PrimalDualSearch"]

BETA1, BETA2 = 0.9, 0.999
#: least metric of a voxel, as a share of the sample's root mean square
LEAST_METRIC = 1e-3
#: largest logarithm of the ratio of the two weights
LARGEST_RATIO = math.log(1e12)
#: least rise of the weight's logarithm in a step before the first success
DOUBLING = math.log(2.0)


class PrimalDualSearch(MinimalSearch):
    """Adam along the objective, each step followed by the proximal step of the norm, for L-infinity, L2, L1 and L0.

    The saddle point of ``norm + weight * (distance to success)`` is searched: the weight rises by a factor at a point
    that does not succeed, doubling at least until the first success, and falls at one that does. A running mean of it
    is used. The objective counts in units of its first gradient's length in the dual norm, so that a weight of 1 is
    that of the boundary of a linear objective. On crops of phantoms it ends above FMN (docs/minimal_norm.md).

    >>> from monai_adversarial.attacks import MinimalNoise, MinimalNormAttack, PrimalDualSearch
    >>> from monai_adversarial.data.example import example_case
    >>> attack = MinimalNormAttack(MinimalNoise("l1", units="HU"), search=PrimalDualSearch(), steps=20)
    >>> result = attack(*example_case(16))
    >>> bool(result.success), result.norm
    (True, 'l1')

    Args:
        step: of Adam at the beginning, in spans; it falls exponentially.
        last_step: share of it that is left at the end.
        weight: the first one.
        weight_range: changes of the weight's logarithm over all steps, of which one falls linearly to a tenth: 12 for
            0.3 in the first of 40 steps. In the implementation named below it is 50, 0.1 in the first of 500 steps;
            the other defaults are as there.
        smoothing: of the running mean of the weights.

    Source: Matyasko and Chau, "PDPGD: primal-dual proximal gradient descent adversarial attack", 2021, after adv_lib's
    implementation of it for segmentation: the paper was not read. There each voxel has a constraint; here the case has
    one, its success. The unit of the objective, the doubling and the exact proximal step in
    Adam's own metric are ours.
    """

    def __init__(
        self,
        step: float = 0.1,
        last_step: float = 0.01,
        weight: float = 1.0,
        weight_range: float = 12.0,
        smoothing: float = 0.9,
    ) -> None:
        self.step = check_positive("step", step)
        self.last_step = check_fraction("last_step", last_step)
        if self.last_step == 0:
            raise ValueError(f"last_step must be above 0, got {last_step!r}.")
        self.weight = check_positive("weight", weight)
        self.weight_range = check_positive("weight_range", weight_range)
        self.smoothing = check_fraction("smoothing", smoothing)

    def run(self, bound: BoundMinimalNoise, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _PrimalDualRun(self, bound, steps)


class _PrimalDualRun(MinimalSearchRun):
    def __init__(self, search: PrimalDualSearch, bound: BoundMinimalNoise, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search
        image = bound.scene.image
        self.points["first"], self.points["second"] = ((torch.zeros_like(image),) for _ in range(2))
        self.state["log_weight"] = image.new_full((image.shape[0],), math.log(search.weight))
        self.state["weight"] = self.state["log_weight"].exp()
        self.state["found"] = torch.zeros(image.shape[0], dtype=torch.bool, device=image.device)
        self.dual = "l1" if bound.norm == "l0" else bound.norm

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        search, state, points, done = self.search, self.state, self.points, step / self.steps
        if step == 0:
            state["unit"] = dual_length(gradient, self.dual).clamp_min(torch.finfo(noise.dtype).tiny)
        change = search.weight_range / self.steps * (1.0 - 0.9 * done)
        state["found"] = state["found"] | success
        rise = torch.where(state["found"], change, max(change, DOUBLING))
        log_weight = state["log_weight"] + torch.where(success, -change, rise)
        state["log_weight"] = log_weight.clamp(-LARGEST_RATIO, LARGEST_RATIO)
        latest = state["log_weight"].exp()
        state["weight"] = search.smoothing * state["weight"] + (1 - search.smoothing) * latest
        slope = -gradient / per_sample(state["unit"], gradient)
        first = BETA1 * points["first"][0] + (1 - BETA1) * slope
        second = BETA2 * points["second"][0] + (1 - BETA2) * slope.square()
        points["first"], points["second"] = (first,), (second,)
        metric = (second / (1 - BETA2 ** (step + 1))).sqrt()
        root = metric.flatten(1).norm(dim=1) / self.bound.count.to(metric.dtype).sqrt()
        least = (LEAST_METRIC * root).clamp_min(torch.finfo(metric.dtype).tiny)
        metric = torch.maximum(metric, per_sample(least, metric))
        size = search.step * search.last_step**done
        moved = noise - size * first / (1 - BETA1 ** (step + 1)) / metric
        down, up = self.room
        return nearest_with_small_norm(
            moved, size / state["weight"], metric, down, up, self.bound.norm, self.bound.block
        )
