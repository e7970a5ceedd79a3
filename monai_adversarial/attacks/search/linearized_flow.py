# SPDX-License-Identifier: Apache-2.0
"""ADef's search: the smallest smooth flow that brings a linearized objective to the boundary."""

from __future__ import annotations

import math
from typing import cast

import torch

from monai_adversarial.attacks.perturbations.base import per_sample
from monai_adversarial.attacks.perturbations.minimal_flow import BoundMinimalFlow
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun
from monai_adversarial.utils.validation import check_positive

__all__ = ["LinearizedFlowSearch"]


class LinearizedFlowSearch(MinimalSearch):
    """Each step is the smallest flow with which the linearized objective is at the boundary; a sample that has
    succeeded stays where it is.

    With g the gradient of the objective by the displacements and S the Gaussian, the flow ``S u`` of the smallest
    ``|u|`` with ``g . S u = rise`` is ``rise * S S g / |S g|^2``: least squares, in mm.

    >>> from monai_adversarial.attacks import LinearizedFlowSearch, MinimalFlow, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> attack = MinimalNormAttack(MinimalFlow(smoothing=4.0), "dice", LinearizedFlowSearch(), steps=12)
    >>> result = attack(*example_case(16))
    >>> result.smallest_norm.units
    'mm'

    Args:
        overshoot: by which the whole way is longer than the sum of its steps.
        largest_step: mm that a displacement changes by at most in a step; None for no limit, as in the paper. An image
            is linear in its displacement over a voxel at best.

    Raises:
        ValueError: for numbers out of range.

    Source: Alaifari, Alberti and Gauksson, "ADef: an iterative algorithm to construct adversarial deformations", ICLR
        2019, section 3. Flows are added up there too; the limit of a step is ours.
    """

    norms = ("displacement",)
    needs = "MinimalFlow"

    def __init__(self, overshoot: float = 0.2, largest_step: float | None = 2.0) -> None:
        self.overshoot = check_positive("overshoot", overshoot, allow_zero=True)
        self.largest_step = math.inf if largest_step is None else check_positive("largest_step", largest_step)

    def run(self, bound: BoundMinimalFlow, steps: int) -> MinimalSearchRun:
        """The state of one run."""
        return _LinearizedFlowRun(self, bound, steps)


class _LinearizedFlowRun(MinimalSearchRun):
    def __init__(self, search: LinearizedFlowSearch, bound: BoundMinimalFlow, steps: int) -> None:
        super().__init__(bound, steps)
        self.search = search

    def move(
        self, noise: torch.Tensor, gradient: torch.Tensor, values: torch.Tensor, success: torch.Tensor, step: int
    ) -> torch.Tensor:
        flow = cast(BoundMinimalFlow, self.bound)
        region = flow.scene.region
        slope = flow.smooth(gradient if region is None else gradient * region)
        tiny = torch.finfo(slope.dtype).tiny
        rise = self.gap(values, success).clamp_min(0) / slope.flatten(1).square().sum(dim=1).clamp_min(tiny)
        change = flow.smooth(slope) * per_sample(rise, slope)
        limit = (self.search.largest_step / flow.length(change).clamp_min(tiny)).clamp_max(1.0)
        way = self.points.get("way", (noise,))[0]
        way = way + torch.where(per_sample(success, noise), 0.0, change * per_sample(limit, change))
        self.points["way"] = (way,)
        return torch.where(per_sample(success, noise), noise, way * (1 + self.search.overshoot))
