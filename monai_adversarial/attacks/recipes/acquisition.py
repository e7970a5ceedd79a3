# SPDX-License-Identifier: Apache-2.0
"""Attacks on how a scan was acquired and reconstructed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.gradients import CoordinateZerothOrder
from monai_adversarial.attacks.gradients.queries import moves_for
from monai_adversarial.attacks.perturbations.acquisition import (
    CTAcquisition,
    MRIAcquisition,
    UltrasoundReconstruction,
)
from monai_adversarial.attacks.perturbations.base import Perturbation
from monai_adversarial.attacks.recipes.queries import FEWEST_QUERIES
from monai_adversarial.attacks.recipes.strong_objective import with_strong_objective
from monai_adversarial.attacks.search import CoordinateAdam, Search, SteepestAscent
from monai_adversarial.attacks.search.extremes_first import looking_first
from monai_adversarial.utils.validation import check_count

__all__ = ["CTAcquisitionAttack", "MRIAcquisitionAttack", "UltrasoundReconstructionAttack"]


# Brighter or darker: few variables have more than one good end, which the start decides between.
RESTARTS = 3
# Queries of each step of zeroth-order optimization: a few of the variables at a time.
SAMPLES = 12


def _parts(
    scanner: Perturbation, steps: int, queries: int | None, search: Search | None, options: dict[str, Any]
) -> dict[str, Any]:
    """Steps that fall along gradients, the given search, or zeroth-order optimization within some queries."""
    if queries is None:
        falling = looking_first(scanner, SteepestAscent(1.0, schedule="linear"))
        chosen = {"search": search or falling, "steps": steps, "restarts": RESTARTS}
        return {**chosen, **with_strong_objective(options)}
    check_count("queries", queries, minimum=FEWEST_QUERIES)
    if search is not None:
        return {"search": search, "steps": queries, **options}
    estimator = CoordinateZerothOrder(SAMPLES, queries=queries)
    chosen = {"search": CoordinateAdam(1.0), "gradient": estimator, "steps": moves_for(queries, SAMPLES)}
    return {**chosen, "random_start": False, **options}


class CTAcquisitionAttack(Attack):
    """The worst scanner and protocol within the ranges of its blocks.

    >>> from monai_adversarial.attacks import CTAcquisitionAttack
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> worst = CTAcquisitionAttack(steps=2)(model, image, label)
    >>> asked = CTAcquisitionAttack(queries=8)(model, image, label)
    >>> bool(worst.adversarial_dice < worst.clean_dice), asked.forwards, asked.backwards
    (True, 10, 0)

    Args:
        blocks: acquisition blocks in the order in which they act; None for those of
            :class:`~monai_adversarial.attacks.CTAcquisition`.
        steps: gradient evaluations.
        queries: asks the network so many times for each sample instead, by zeroth-order optimization (ZOO) of the
            variables; None for gradients.
        search: another search than steps that fall from the whole range, or than ZOO; with ``queries`` one by values
            alone, such as ``RandomSearch()``.
        window: (low, high) in HU of the window in use, where no intensity map gives one; see
            :class:`~monai_adversarial.attacks.CTAcquisition`.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; gradients have 3 ``restarts``
            and the objective ``"annealed_dice"`` by default, queries one and ``"dice_ce"``.

    Survey entry: A15 (own).

    Source: see :class:`~monai_adversarial.attacks.CTAcquisition`.
    """

    fixed_arguments = ("perturbation",)

    def __init__(
        self,
        blocks: Sequence[Perturbation] | None = None,
        steps: int = 10,
        queries: int | None = None,
        search: Search | None = None,
        window: tuple[float, float] | None = None,
        **options: Any,
    ) -> None:
        scanner = CTAcquisition(blocks, window)
        super().__init__(scanner, **_parts(scanner, steps, queries, search, options))


class MRIAcquisitionAttack(Attack):
    """The worst B1 field, motion, ghosts and spikes within their ranges.

    >>> from monai_adversarial.attacks import Ghosting, MRIAcquisitionAttack
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = MRIAcquisitionAttack([Ghosting(0.2)], steps=3)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        blocks: acquisition blocks in the order in which they act; None for those of
            :class:`~monai_adversarial.attacks.MRIAcquisition`.
        steps: gradient evaluations.
        queries: asks the network so many times for each sample instead, by zeroth-order optimization (ZOO) of the
            variables; None for gradients.
        search: another search than steps that fall from the whole range, or than ZOO; with ``queries`` one by values
            alone, such as ``RandomSearch()``.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Survey entry: A15 (own).

    Source: see :class:`~monai_adversarial.attacks.MRIAcquisition`.
    """

    fixed_arguments = ("perturbation",)

    def __init__(
        self,
        blocks: Sequence[Perturbation] | None = None,
        steps: int = 10,
        queries: int | None = None,
        search: Search | None = None,
        **options: Any,
    ) -> None:
        scanner = MRIAcquisition(blocks)
        super().__init__(scanner, **_parts(scanner, steps, queries, search, options))


class UltrasoundReconstructionAttack(Attack):
    """The worst settings of an ultrasound reconstruction, by queries as in the paper.

    The network is asked and never differentiated. ``queries=None`` with ``steps=`` goes by gradients.

    >>> import torch
    >>> from monai_adversarial.attacks import UltrasoundReconstructionAttack
    >>> from monai_adversarial.models import AttackedModel
    >>> network = torch.nn.Conv3d(1, 2, 3, padding=1)
    >>> image = torch.rand(1, 1, 16, 16, 16)
    >>> result = UltrasoundReconstructionAttack(queries=20)(AttackedModel(network), image, spacing=0.3)
    >>> result.forwards, result.backwards
    (22, 0)

    Args:
        reconstruction: pipeline, data and ranges; None for that of the image itself with all defaults.
        queries: of each sample, by zeroth-order optimization (ZOO) of the variables; None for gradients.
        steps: gradient evaluations, where ``queries`` is None.
        search: another search; see :class:`CTAcquisitionAttack`.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Survey entry: A14 (reconstruction).

    Source: Byra et al. 2020; see :class:`~monai_adversarial.attacks.UltrasoundReconstruction`. Its zeroth-order
    optimization is that of Chen et al. 2017, as in
    :class:`~monai_adversarial.attacks.CoordinateZerothOrder`.
    """

    fixed_arguments = ("perturbation",)

    def __init__(
        self,
        reconstruction: UltrasoundReconstruction | None = None,
        queries: int | None = 100,
        steps: int = 10,
        search: Search | None = None,
        **options: Any,
    ) -> None:
        scanner = reconstruction or UltrasoundReconstruction()
        super().__init__(scanner, **_parts(scanner, steps, queries, search, options))
