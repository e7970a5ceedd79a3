# SPDX-License-Identifier: Apache-2.0
"""Attack on the statistics of texture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.perturbations.texture_statistics import TextureStatistics
from monai_adversarial.attacks.search import SteepestAscent

__all__ = ["TextureAttack"]


class TextureAttack(Attack):
    """Mean and spread of each band of texture, moved in each neighborhood to where the network errs; organs keep their
    shape.

    >>> from monai_adversarial.attacks import TextureAttack
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = TextureAttack(0.5, 0.5, cap=20, steps=3)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice), result.budgets["noise_linf"].limit
    (True, 20.0)

    Args:
        max_gain: largest gain of a band's spread minus one, 1 for twice and half the spread.
        max_shift: largest shift of a band's mean, as a share of its spread.
        cap: largest change of a voxel, in ``units``.
        units: ``"HU"``, ``"network"``, ``"fraction"`` of the intensity window or ``"percentile"``.
        scales: standard deviations in mm of the Gaussians between the bands, ascending.
        control_spacing: size in mm of the neighborhoods.
        window: (low, high) in HU; None for that of the intensity map.
        style: an image whose statistics bound the change; see
            :class:`~monai_adversarial.attacks.TextureStatistics`.
        steps: gradient evaluations, whose size falls linearly from twice the budget.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; ``objective`` is ``"dice"`` by
            default.

    Survey entry: X12 (reconstruction).

    Source: see :class:`~monai_adversarial.attacks.TextureStatistics`; the search and its defaults are ours.
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        max_gain: float = 1.0,
        max_shift: float = 0.25,
        cap: float = 20.0,
        units: str = "HU",
        scales: Sequence[float] = (2.0, 4.0, 8.0),
        control_spacing: float = 16.0,
        window: Sequence[float] | None = None,
        style: Any = None,
        steps: int = 10,
        **options: Any,
    ) -> None:
        texture = TextureStatistics(max_gain, max_shift, cap, units, scales, control_spacing, window, style)
        search = SteepestAscent(2.0, schedule="linear")
        super().__init__(texture, search=search, steps=steps, **{"objective": "dice", **options})
