# SPDX-License-Identifier: Apache-2.0
"""Attack by speckle."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.perturbations.speckle import SpeckleNoise
from monai_adversarial.attacks.recipes.strong_objective import with_strong_objective
from monai_adversarial.attacks.search import SteepestAscent

__all__ = ["SpeckleAttack"]


class SpeckleAttack(Attack):
    """Multiplicative noise of at most ``rho`` in each voxel, found by projected gradient ascent.

    Its controls are random speckle of the same size (``result.bound.random_control``) and the worst of N draws:
    ``Attack(SpeckleNoise(0.1), search=RandomSearch(), steps=100)``.

    >>> from monai_adversarial.attacks import SpeckleAttack
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = SpeckleAttack(0.05, grain=0.5, steps=3)(model, image, label)
    >>> bool(result.adversarial_dice < 0.5 * result.clean_dice), result.budgets["speckle"].limit
    (True, 0.05)

    Args:
        rho: largest relative change of a value.
        grain: standard deviation in voxels of a Gaussian that smooths the noise, 0 for none.
        looks: random starts are multi-look speckle; see :class:`~monai_adversarial.attacks.SpeckleNoise`.
        domain: ``"window"``, ``"attenuation"`` (images in HU) or ``"image"``.
        window: HU pair for ``domain="window"`` where no intensity map gives one.
        steps: gradient evaluations, whose size falls linearly from twice ``rho``.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; ``objective`` is ``"annealed_dice"``
            by default.

    Survey entry: A12 (adapted).

    Source: see :class:`~monai_adversarial.attacks.SpeckleNoise`; the optimized form is ours.
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        rho: float = 0.1,
        grain: float = 0.0,
        looks: float | None = None,
        domain: str = "window",
        window: tuple[float, float] | None = None,
        steps: int = 10,
        **options: Any,
    ) -> None:
        noise = SpeckleNoise(rho, grain, looks, domain, window)
        search = SteepestAscent(2.0, schedule="linear")
        super().__init__(noise, search=search, steps=steps, **with_strong_objective(options))
