# SPDX-License-Identifier: Apache-2.0
"""The attack that looks for the smallest deformation which succeeds."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.minimal_attack import MinimalNormAttack
from monai_adversarial.attacks.objectives import Objective
from monai_adversarial.attacks.perturbations.minimal_flow import MinimalFlow
from monai_adversarial.attacks.search import LinearizedFlowSearch

__all__ = ["ADef"]


class ADef(MinimalNormAttack):
    """ADef: the smallest smooth deformation, from linearized boundary to linearized boundary.

    Labels of voxels move with the image, and success is judged with the moved label; the class of an image stays what
    it is. ``result.smallest_norm`` is the longest displacement in mm, ``result.budgets`` say how much of the volume
    folds. A random deformation that is as smooth and as long is ``result.random_control()``.

    >>> from monai_adversarial.attacks import ADef
    >>> from monai_adversarial.data.example import example_case
    >>> result = ADef(steps=12)(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice), result.smallest_norm.units
    (True, 'mm')

    Args:
        smoothing: standard deviation in mm of the Gaussian that makes each step smooth; 0 for none.
        steps: gradient evaluations.
        overshoot: by which the whole way is longer than the sum of its steps; 0.2 is the paper's factor of 1.2.
        largest_step: mm that a displacement changes by at most in a step; None for no limit.
        max_displacement: largest displacement that is allowed, in mm; None for no limit.
        objective: of segmentations; a classifier has its margin to the nearest other class.
        options: further arguments of :class:`~monai_adversarial.attacks.MinimalNormAttack`.

    Source: Alaifari, Alberti and Gauksson, "ADef: an iterative algorithm to construct adversarial deformations", ICLR
        2019, recalled and not read again. There it is classifiers in 2D, the nearest of several classes by the length
        of its step, and no limit of a step; mm, voxels with labels and the halving at the end are ours.

    Survey entry: X09 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        smoothing: float = 3.0,
        steps: int = 50,
        overshoot: float = 0.2,
        largest_step: float | None = 2.0,
        max_displacement: float | None = None,
        objective: str | Objective = "dice",
        **options: Any,
    ) -> None:
        flow, search = MinimalFlow(max_displacement, smoothing), LinearizedFlowSearch(overshoot, largest_step)
        super().__init__(flow, objective, search, steps=steps, **options)
