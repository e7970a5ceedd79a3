# SPDX-License-Identifier: Apache-2.0
"""Attacks by queries that estimate a gradient, try directions, or see decisions alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.gradients.coordinates import CoordinateZerothOrder
from monai_adversarial.attacks.gradients.evolution import SAGM
from monai_adversarial.attacks.gradients.queries import QueryGradient, moves_for
from monai_adversarial.attacks.gradients.random_directions import NaturalEvolution, RandomGradientFree
from monai_adversarial.attacks.perturbations.additive import AdditiveNoise
from monai_adversarial.attacks.perturbations.base import Perturbation
from monai_adversarial.attacks.perturbations.coarse_grid import CoarseGrid
from monai_adversarial.attacks.search.adam import CoordinateAdam
from monai_adversarial.attacks.search.base import Search
from monai_adversarial.attacks.search.hop_skip_jump import HopSkipJumpSearch
from monai_adversarial.attacks.search.simba import SimBA
from monai_adversarial.attacks.search.steepest_ascent import SelfAdaptiveMomentum, SteepestAscent
from monai_adversarial.utils.validation import check_count

__all__ = ["NES", "RGF", "ZOO", "HopSkipJump", "SAGMAttack", "SimBADCT"]

FEWEST_QUERIES = 3


class _ByEstimates(Attack):
    """Estimates of a gradient within a number of queries.

    Args:
        perturbation: of which the estimates are made.
        search: how to move along them.
        estimator: already with its number of queries.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.
    """

    fixed_arguments = ("perturbation", "search", "gradient", "steps")

    def __init__(
        self, perturbation: Perturbation, search: Search, estimator: QueryGradient, options: dict[str, Any]
    ) -> None:
        assert estimator.queries is not None
        steps = moves_for(check_count("queries", estimator.queries, minimum=FEWEST_QUERIES), estimator.samples)
        super().__init__(
            perturbation, search=search, gradient=estimator, steps=steps, **{"random_start": False, **options}
        )


def _noise(epsilon: float, units: str, grids: int | Sequence[int] | None) -> Perturbation:
    """Blocks of noise, which reach the end of the budget everywhere; linear interpolation does at the nodes alone."""
    noise = AdditiveNoise(epsilon, "linf", units)
    return noise if grids is None else CoarseGrid(noise, grids, "nearest")


class NES(_ByEstimates):
    """Natural evolution strategies (Ilyas et al. 2018): sign steps with momentum along antithetic estimates.

    It needs no gradient, as :class:`~monai_adversarial.attacks.SquareAttack`. ``result.forwards`` is the number of
    queries and two: the clean image and the outcome.

    Survey entry: A13 (adapted).

    Args:
        epsilon: radius of the L-infinity budget, in ``units``.
        units: see :class:`~monai_adversarial.attacks.PGD`.
        queries: of each sample, kept exactly; with a restart as many again.
        grid: nodes along each axis of the noise that is searched, in blocks; None for a number per voxel as in the
            paper.
        samples: queries of each estimate, two for each direction.
        radius: standard deviation of the directions, as a share of the budget's radius.
        relative_step: first step as a share of the budget's radius; they fall linearly.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Example:
        >>> from monai_adversarial.attacks import NES
        >>> from monai_adversarial.data.example import example_case
        >>> NES(16, units="HU", queries=50)(*example_case()).forwards
        52
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        queries: int = 1000,
        grid: int | None = 4,
        samples: int = 10,
        radius: float = 0.5,
        relative_step: float = 2.0,
        **options: Any,
    ) -> None:
        search = SteepestAscent(relative_step, 0.9, "linear")
        estimator = NaturalEvolution(samples, radius, queries)
        super().__init__(_noise(epsilon, units, grid), search, estimator, options)


class RGF(_ByEstimates):
    """Random gradient-free estimates (Nesterov and Spokoiny 2017; Cheng et al. 2019) and sign steps with momentum.

    Survey entry: A13 (adapted).

    Args:
        epsilon, units, queries, grid: see :class:`NES`.
        samples: queries of each estimate, one for each direction.
        radius: length of the differences, root mean square, as a share of the budget's radius.
        relative_step: first step as a share of the budget's radius; they fall linearly.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Example:
        >>> from monai_adversarial.attacks import RGF
        >>> from monai_adversarial.data.example import example_case
        >>> RGF(16, units="HU", queries=50)(*example_case()).forwards
        52
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        queries: int = 1000,
        grid: int | None = 4,
        samples: int = 6,
        radius: float = 0.25,
        relative_step: float = 0.2,
        **options: Any,
    ) -> None:
        search = SteepestAscent(relative_step, 0.9, "linear")
        estimator = RandomGradientFree(samples, radius, queries)
        super().__init__(_noise(epsilon, units, grid), search, estimator, options)


class ZOO(_ByEstimates):
    """Zeroth-order optimization (Chen et al. 2017): coordinate Adam on grids from coarse to fine.

    The objective is Dice + cross-entropy instead of the paper's margin of a classifier.

    Survey entry: A13 (adapted).

    Args:
        epsilon, units, queries: see :class:`NES`.
        grids: nodes along each axis of the grids, coarse ones first; None for a number per voxel.
        samples: queries of each step, two for each coordinate.
        radius: half the length of the differences, as a share of the budget's radius.
        relative_step: length of a coordinate's first step, as a share of the budget's radius.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Example:
        >>> from monai_adversarial.attacks import ZOO
        >>> from monai_adversarial.data.example import example_case
        >>> ZOO(16, units="HU", queries=50)(*example_case()).forwards
        52
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        queries: int = 1000,
        grids: int | Sequence[int] | None = (2, 4, 8),
        samples: int = 8,
        radius: float = 1.0,
        relative_step: float = 2.0,
        **options: Any,
    ) -> None:
        search, estimator = CoordinateAdam(relative_step), CoordinateZerothOrder(samples, radius, queries)
        super().__init__(_noise(epsilon, units, grids), search, estimator, options)


class SAGMAttack(_ByEstimates):
    """Sign steps along a gradient that differential evolution simulates, with self-adaptive momentum.

    A reconstruction: see :class:`~monai_adversarial.attacks.SAGM`.

    Source: Zhang et al. 2023, of which the formulas could not be read.

    Survey entry: A16 (reconstruction).

    Args:
        epsilon, units, queries, grid: see :class:`NES`.
        samples: members of the population.
        radius: size of the first members, as a share of the budget's radius.
        relative_step: first step as a share of the budget's radius; they fall linearly.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Example:
        >>> from monai_adversarial.attacks import SAGMAttack
        >>> from monai_adversarial.data.example import example_case
        >>> SAGMAttack(16, units="HU", queries=50)(*example_case()).forwards
        52
    """

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        queries: int = 1000,
        grid: int | None = 4,
        samples: int = 10,
        radius: float = 1.0,
        relative_step: float = 1.0,
        **options: Any,
    ) -> None:
        search = SelfAdaptiveMomentum(relative_step, "linear")
        estimator = SAGM(samples, radius, queries)
        super().__init__(_noise(epsilon, units, grid), search, estimator, options)


class SimBADCT(Attack):
    """Simple black-box attack along low frequencies of the discrete cosine transform (Guo et al. 2019), in 3D.

    Survey entry: X19 (adapted).

    Args:
        epsilon: radius of the budget, in ``units``.
        units: see :class:`~monai_adversarial.attacks.PGD`.
        queries: of each sample.
        norm: ``"linf"``, ``"l2"`` or ``"rms"``.
        relative_step, frequencies: see :class:`~monai_adversarial.attacks.SimBA`.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Example:
        >>> from monai_adversarial.attacks import SimBADCT
        >>> from monai_adversarial.data.example import example_case
        >>> SimBADCT(16, units="HU", queries=50)(*example_case()).forwards
        52
    """

    fixed_arguments = ("perturbation", "search", "steps")

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        queries: int = 1000,
        norm: str = "linf",
        relative_step: float = 1.0,
        frequencies: float = 0.125,
        **options: Any,
    ) -> None:
        noise, search = AdditiveNoise(epsilon, norm, units), SimBA("dct", relative_step, frequencies)
        super().__init__(
            noise, search=search, steps=check_count("queries", queries), **{"random_start": False, **options}
        )


class HopSkipJump(Attack):
    """HopSkipJump (Chen et al. 2020): the smallest noise that succeeds, by decisions about whole cases.

    The attacker sees only whether the attack has succeeded (``success_threshold``). ``epsilon`` is the largest noise it
    may begin with; ``result.budgets`` says how large the outcome is.

    Survey entry: X19 (adapted).

    Args:
        epsilon: radius of the ball in which it begins, in ``units``: large enough for random noise to succeed.
        units: see :class:`~monai_adversarial.attacks.PGD`.
        queries: of each sample.
        norm: ``"rms"`` (Euclidean, comparable across sizes of images), ``"l2"`` or ``"linf"``.
        search: None for :class:`~monai_adversarial.attacks.HopSkipJumpSearch` with its defaults.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Example:
        >>> from monai_adversarial.attacks import HopSkipJump
        >>> from monai_adversarial.data.example import example_case
        >>> result = HopSkipJump(100, units="HU", queries=50)(*example_case())
        >>> bool(result.success), result.forwards
        (True, 52)
    """

    fixed_arguments = ("perturbation", "steps")

    def __init__(
        self,
        epsilon: float,
        units: str = "network",
        queries: int = 1000,
        norm: str = "rms",
        search: HopSkipJumpSearch | None = None,
        **options: Any,
    ) -> None:
        noise = AdditiveNoise(epsilon, norm, units)
        super().__init__(noise, search=search or HopSkipJumpSearch(), steps=check_count("queries", queries), **options)
