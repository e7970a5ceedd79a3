# SPDX-License-Identifier: Apache-2.0
"""Attacks on few voxels."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.minimal_attack import MinimalNormAttack
from monai_adversarial.attacks.perturbations.cubes import Cubes
from monai_adversarial.attacks.perturbations.minimal import MinimalNoise
from monai_adversarial.attacks.search import DifferentialEvolution, SaliencySearch, SigmaZeroSearch
from monai_adversarial.utils.validation import check_count

__all__ = ["JSMA", "OnePixel", "SigmaZero"]


class SigmaZero(MinimalNormAttack):
    """Sigma-zero: as few blocks of voxels as possible, by a smooth L0 norm.

    >>> from monai_adversarial.attacks import SigmaZero
    >>> from monai_adversarial.data.example import example_case
    >>> result = SigmaZero(block=4, units="HU", steps=15)(*example_case(16))
    >>> bool(result.success), result.smallest_norm.units
    (True, 'blocks of 4 voxels along each axis')

    Args:
        block: voxels along each axis of a block; 1 for single voxels.
        units: of the reported largest change; see :class:`~monai_adversarial.attacks.PGD`.
        steps: 1000 in the paper.
        epsilon: most blocks that may change; None for no limit.
        options: further arguments of :class:`~monai_adversarial.attacks.MinimalNormAttack`.

    Source: Cina et al., ICLR 2025. Blocks are ours.
    Survey entry: A07 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        block: int = 4,
        units: str = "network",
        steps: int = 300,
        epsilon: float | None = None,
        **options: Any,
    ) -> None:
        noise, search = MinimalNoise("l0", epsilon, units, block), SigmaZeroSearch()
        super().__init__(noise, search=search, steps=steps, **{"objective": "annealed_dice", **options})


class JSMA(MinimalNormAttack):
    """Jacobian-based saliency map attack on blocks of voxels, for segmentations.

    >>> from monai_adversarial.attacks import JSMA
    >>> from monai_adversarial.data.example import example_case
    >>> bool(JSMA(block=4, units="HU", steps=25, largest_share=0.8)(*example_case(16)).success)
    True

    Args:
        block: voxels along each axis of a block.
        units, epsilon, options: see :class:`SigmaZero`.
        steps: of ``per_step`` blocks each.
        per_step: blocks that change in a step, 2 in the paper.
        theta: change of a voxel as a share of the window, 1 in the paper.
        largest_share: of the blocks that may change, 0.1.

    Source: Papernot et al., 2016, as Carlini and Wagner 2017 restate it. One saliency instead of a product of two.
    Survey entry: A29 (reconstruction).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        block: int = 4,
        units: str = "network",
        steps: int = 100,
        per_step: int = 2,
        theta: float = 1.0,
        largest_share: float = 0.1,
        epsilon: float | None = None,
        **options: Any,
    ) -> None:
        search = SaliencySearch(theta, largest_share, per_step)
        noise = MinimalNoise("l0", epsilon, units, block)
        super().__init__(noise, search=search, steps=steps, **{"objective": "annealed_dice", **options})


class OnePixel(Attack):
    """The one-pixel attack on ``voxels`` voxels or cubes, by queries alone.

    >>> from monai_adversarial.attacks import OnePixel
    >>> from monai_adversarial.data.example import example_case
    >>> result = OnePixel(voxels=2, edge=3, units="HU", queries=30, population=10)(*example_case(16))
    >>> float(result.budgets["changed_voxels"].values) <= 54
    True

    Args:
        voxels: number of voxels or cubes; the budget is ``voxels * edge ** 3`` voxels.
        edge: voxels along each axis of a cube.
        units: of ``epsilon``; see :class:`~monai_adversarial.attacks.PGD`.
        queries: of each sample; the paper's are up to 100 generations of ``population``.
        population: members of the differential evolution, 400 in the paper.
        epsilon: largest change of a voxel; None for the whole range of values.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Source: Su, Vargas, Sakurai, 2019.
    Survey entry: A07 (adapted).
    """

    fixed_arguments = ("perturbation", "search", "steps")

    def __init__(
        self,
        voxels: int = 1,
        edge: int = 1,
        units: str = "network",
        queries: int = 4000,
        population: int = 400,
        epsilon: float | None = None,
        **options: Any,
    ) -> None:
        cubes, search = Cubes(voxels, edge, epsilon, units), DifferentialEvolution(population)
        super().__init__(cubes, search=search, steps=check_count("queries", queries), **options)
