# SPDX-License-Identifier: Apache-2.0
"""Attack by queries alone."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.perturbations.additive import AdditiveNoise
from monai_adversarial.attacks.search.square import SquareSearch
from monai_adversarial.utils.validation import check_count

__all__ = ["SquareAttack"]


class SquareAttack(Attack):
    """Square attack (Andriushchenko et al. 2020) in three dimensions, with cubes: L-infinity, by queries alone.

    It needs no gradient: networks that cannot be differentiated, other runtimes and servers are attacked as they
    answer, in float32. ``result.forwards`` counts every pass of one sample: ``queries`` of the search, one of the clean
    image and one of the outcome.

    >>> from monai_adversarial.attacks import SquareAttack
    >>> from monai_adversarial.data.example import example_case
    >>> result = SquareAttack(16, "HU", queries=20)(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice), result.forwards, result.backwards
    (True, 22, 0)

    Args:
        epsilon: radius of the budget, in ``units``.
        units: see :class:`~monai_adversarial.attacks.PGD`.
        queries: of each sample, the paper's N; with a restart as many again.
        share: of the voxels that the first cubes cover, the paper's p; see
            :class:`~monai_adversarial.attacks.SquareSearch`.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`, for example ``objective``, which is
            ``"dice_ce"`` by default.

    Source: Andriushchenko et al., "Square attack: a query-efficient black-box adversarial attack via random search",
    ECCV 2020, with squares.

    Survey entry: X19 (adapted), A22 (adapted).
    """

    fixed_arguments = ("perturbation", "search", "steps")

    def __init__(
        self, epsilon: float, units: str = "network", queries: int = 1000, share: float = 0.8, **options: Any
    ) -> None:
        noise = AdditiveNoise(epsilon, "linf", units)
        super().__init__(noise, search=SquareSearch(share), steps=check_count("queries", queries), **options)
