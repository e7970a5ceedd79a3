# SPDX-License-Identifier: Apache-2.0
"""The attack that looks for the smallest change of an image that succeeds."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.gradients import GradientEstimator
from monai_adversarial.attacks.minimal_run import MinimalRun
from monai_adversarial.attacks.objectives import Objective
from monai_adversarial.attacks.perturbations.minimal import MinimalNoise
from monai_adversarial.attacks.perturbations.minimal_base import MinimalPerturbation
from monai_adversarial.attacks.perturbed import Perturbed
from monai_adversarial.attacks.search.minimal import MinimalSearch
from monai_adversarial.utils.validation import check_count, check_fraction, check_instance

__all__ = ["MinimalNormAttack"]


class MinimalNormAttack(Attack):
    """Of every sample the smallest change that succeeds, in the norm of the perturbation.

    There is no budget to spend. The search is told at each step whether the segmentation counts as attacked, the
    smallest such point is kept. At the end the way back to the clean image is halved on finished images, which are
    scored as they are handed back. Where nothing succeeds, the point nearest to success is returned and
    ``result.success`` says False.

    >>> from monai_adversarial.attacks import DDNSearch, MinimalNoise, MinimalNormAttack
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case(16)
    >>> attack = MinimalNormAttack(MinimalNoise("l2", units="HU"), search=DDNSearch(), steps=20)
    >>> result = attack(model, image, label)
    >>> bool(result.success), result.smallest_norm.units
    (True, 'HU')

    Args:
        perturbation: noise and its norm, or a flow; with the largest one that is allowed, if any.
        objective: see :class:`~monai_adversarial.attacks.Attack`; by default the annealed Dice.
        search: one of those for minimal norms.
        gradient: see :class:`~monai_adversarial.attacks.Attack`.
        boundary_queries: finished images that are asked about at the end, at least 1: one forward pass of each sample
            each.
        wrong_fraction: what counts as a success is that this share of the voxels is wrong (targeted: as wanted), 0.99
            in the literature on segmentation; None for ``success_threshold``, the rule of all attacks.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`. ``random_start`` is False by default,
            and ``early_stop`` has no meaning here: the first success is not the smallest.

    Raises:
        TypeError: for a perturbation or a search that is not for minimal norms.
        ValueError: for an argument out of range, and for ``wrong_fraction`` where labels move.

    Source: Carlini and Wagner, 2017, and Rony et al., 2019 and 2023, for the problem; the halving on finished images is
        ours, as FAB's final search is for classifiers.
    """

    perturbation: MinimalPerturbation
    _run_type = MinimalRun

    def __init__(
        self,
        perturbation: MinimalPerturbation,
        objective: str | Objective = "annealed_dice",
        search: MinimalSearch | None = None,
        gradient: GradientEstimator | None = None,
        *,
        boundary_queries: int = 10,
        wrong_fraction: float | None = None,
        **options: Any,
    ) -> None:
        check_instance("perturbation", perturbation, MinimalPerturbation, "MinimalNoise('l2')")
        check_instance("search", search, MinimalSearch, "DDNSearch()")
        super().__init__(perturbation, objective, search, gradient, **{"random_start": False, **options})
        if self.early_stop:
            raise ValueError("early_stop=True would return the first success: a minimal-norm attack needs False.")
        if wrong_fraction is not None and not isinstance(perturbation, MinimalNoise):
            kind = type(perturbation).__name__
            raise ValueError(
                f"wrong_fraction compares voxels with a label that stays where it is, and {kind} "
                f"moves it: leave it out, got {wrong_fraction}."
            )
        self.boundary_queries = check_count("boundary_queries", boundary_queries)
        self.wrong_fraction = None if wrong_fraction is None else check_fraction("wrong_fraction", wrong_fraction)

    def perturb(self, *args: Any, **options: Any) -> Perturbed:
        """Not for training: a step of training needs a budget.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no budget to train with: train with an attack that has one, such as PGD."
        )
