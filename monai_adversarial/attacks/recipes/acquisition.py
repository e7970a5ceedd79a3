# SPDX-License-Identifier: Apache-2.0
"""Attacks on how a scan was acquired and reconstructed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.perturbations.acquisition import (
    CTAcquisition,
    MRIAcquisition,
    UltrasoundReconstruction,
)
from monai_adversarial.attacks.perturbations.base import Perturbation
from monai_adversarial.attacks.search import RandomSearch, Search, SteepestAscent

__all__ = ["CTAcquisitionAttack", "MRIAcquisitionAttack", "UltrasoundReconstructionAttack"]


def _falling() -> Search:
    return SteepestAscent(1.0, schedule="linear")


class CTAcquisitionAttack(Attack):
    """The worst scanner and protocol within the ranges of its blocks.

    >>> from monai_adversarial.attacks import CTAcquisitionAttack, RandomSearch
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> worst = CTAcquisitionAttack(steps=4)(model, image, label)
    >>> asked = CTAcquisitionAttack(steps=4, search=RandomSearch())(model, image, label)
    >>> bool(worst.adversarial_dice < worst.clean_dice), asked.backwards
    (True, 0)

    Args:
        blocks: acquisition blocks in the order in which they act; None for those of
            :class:`~monai_adversarial.attacks.CTAcquisition`.
        steps: gradient evaluations or, with a search by values alone, queries.
        search: None for sign steps that fall from the whole range; ``RandomSearch()`` asks without gradients.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Survey entry: A15 (own).

    Source: see :class:`~monai_adversarial.attacks.CTAcquisition`.
    """

    def __init__(
        self,
        blocks: Sequence[Perturbation] | None = None,
        steps: int = 10,
        search: Search | None = None,
        **options: Any,
    ) -> None:
        super().__init__(CTAcquisition(blocks), search=search or _falling(), steps=steps, **options)


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
        steps: gradient evaluations or, with a search by values alone, queries.
        search: None for steps that fall from the whole range; ``RandomSearch()`` asks without gradients.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Survey entry: A15 (own).

    Source: see :class:`~monai_adversarial.attacks.MRIAcquisition`.
    """

    def __init__(
        self,
        blocks: Sequence[Perturbation] | None = None,
        steps: int = 10,
        search: Search | None = None,
        **options: Any,
    ) -> None:
        super().__init__(MRIAcquisition(blocks), search=search or _falling(), steps=steps, **options)


class UltrasoundReconstructionAttack(Attack):
    """The worst settings of an ultrasound reconstruction, by queries as in the paper.

    The network is asked and never differentiated; ``search=SteepestAscent()`` and others go by gradients.

    >>> import torch
    >>> from monai_adversarial.attacks import UltrasoundReconstructionAttack
    >>> from monai_adversarial.models import AttackedModel
    >>> network = torch.nn.Conv3d(1, 2, 3, padding=1)
    >>> image = torch.rand(1, 1, 16, 16, 16)
    >>> result = UltrasoundReconstructionAttack(queries=5)(AttackedModel(network), image, spacing=0.3)
    >>> result.forwards, result.backwards
    (7, 0)

    Args:
        reconstruction: pipeline, data and ranges; None for that of the image itself with all defaults.
        queries: of each sample; with a search by gradients its steps.
        search: None for ``RandomSearch()``.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Survey entry: A14 (reconstruction).

    Source: Byra et al. 2020; see :class:`~monai_adversarial.attacks.UltrasoundReconstruction`. Its zeroth-order
    optimization is a search of its own here, and a random search the default.
    """

    def __init__(
        self,
        reconstruction: UltrasoundReconstruction | None = None,
        queries: int = 100,
        search: Search | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            reconstruction or UltrasoundReconstruction(), search=search or RandomSearch(), steps=queries, **options
        )
