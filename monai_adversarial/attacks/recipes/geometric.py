# SPDX-License-Identifier: Apache-2.0
"""Attacks by moving anatomy; labels move with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.objectives import FlowPenalized, Objective
from monai_adversarial.attacks.perturbations.affine import AffineTransform
from monai_adversarial.attacks.perturbations.deformation import ElasticDeformation
from monai_adversarial.attacks.perturbations.flow import FlowField
from monai_adversarial.attacks.search.steepest_ascent import falling_or_given

__all__ = ["AffineAttack", "ElasticAttack", "StAdv"]


class ElasticAttack(Attack):
    """Adversarial elastic deformation, free or diffeomorphic (after AdvMorph, Chen et al. 2022; the topology
    certificate is our own).

    >>> from monai_adversarial.attacks import ElasticAttack
    >>> from monai_adversarial.data.example import example_case
    >>> found = ElasticAttack(max_displacement=4, min_jacobian=0.2, steps=2)(*example_case(16)).budgets
    >>> float(found["displacement_euclidean"].values) <= 4, float(found["jacobian_minimum"].values) >= 0.2
    (True, True)

    Args:
        max_displacement: in mm; one number, or one per axis with ``norm="per_axis"``.
        norm: ``"euclidean"`` bounds the length of each voxel's displacement, ``"per_axis"`` its part along each axis.
        control_spacing: distance of the cubic B-spline's control points in mm.
        diffeomorphic: integrate a stationary velocity, so that anatomy never folds.
        min_jacobian: lowest Jacobian determinant of a diffeomorphic deformation.
        steps: gradient evaluations.
        relative_step: size of every step as a fraction of the budget; None for steps that fall linearly from the whole
            budget, which do more at the same cost than those of a quarter (docs/search.md).
        schedule: of steps of ``relative_step``, which it asks for: ``"constant"`` (also None), or ``"linear"`` or
            ``"cosine"`` for steps that fall from there.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Source: Chen et al., "Enhancing MR image segmentation with realistic adversarial data augmentation", 2022
    (AdvMorph); the certificate of the Jacobian is our own.

    Survey entry: X08 (own), X10 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        max_displacement: float | Sequence[float] = 5.0,
        control_spacing: float = 32.0,
        diffeomorphic: bool = True,
        min_jacobian: float = 0.1,
        steps: int = 10,
        relative_step: float | None = None,
        norm: str = "euclidean",
        schedule: str | None = None,
        **options: Any,
    ) -> None:
        deformation = ElasticDeformation(
            max_displacement=max_displacement,
            control_spacing=control_spacing,
            diffeomorphic=diffeomorphic,
            min_jacobian=min_jacobian,
            norm=norm,
        )
        super().__init__(deformation, search=falling_or_given(1.0, relative_step, schedule), steps=steps, **options)


class AffineAttack(Attack):
    """Adversarial affine transform about the image's center, in mm.

    >>> from monai_adversarial.attacks import AffineAttack
    >>> from monai_adversarial.data.example import example_case
    >>> result = AffineAttack(max_rotation=5, max_translation=4, steps=2)(*example_case(16))
    >>> result.bound.geometric, bool(result.budgets["translation_axis_0"].values <= 4)
    (True, True)

    Args:
        max_rotation: degrees about each axis.
        max_translation: mm, as ``translation_norm`` measures it.
        max_scale: largest relative change of size, 0.1 for 10 %.
        max_shear: largest shear.
        translation_norm: ``"per_axis"`` bounds the translation along each axis, ``"euclidean"`` its length.
        steps: gradient evaluations.
        relative_step: size of every step as a fraction of the budget; None for steps that fall linearly from the whole
            budget.
        schedule: see :class:`ElasticAttack`.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Source: Chen et al. 2022 (AdvAffine), here in mm and 3D.

    Survey entry: X10 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        max_rotation: float = 10.0,
        max_translation: float = 10.0,
        max_scale: float = 0.1,
        max_shear: float = 0.0,
        steps: int = 10,
        relative_step: float | None = None,
        translation_norm: str = "per_axis",
        schedule: str | None = None,
        **options: Any,
    ) -> None:
        transform = AffineTransform(
            max_rotation=max_rotation,
            max_translation=max_translation,
            max_scale=max_scale,
            max_shear=max_shear,
            translation_norm=translation_norm,
        )
        super().__init__(transform, search=falling_or_given(1.0, relative_step, schedule), steps=steps, **options)


class StAdv(Attack):
    """Spatially transformed adversarial example: each voxel moves by itself, against the total variation of the flow.

    What is maximized is the objective minus ``smoothness`` times the total variation. Labels move with the image, as of
    every attack that moves anatomy; the class of an image stays what it is. Unlike
    :class:`ElasticAttack` nothing keeps the flow from folding; ``result.budgets["folded_fraction"]`` says how much of
    it does.

    >>> from monai_adversarial.attacks import StAdv
    >>> from monai_adversarial.data.example import example_case
    >>> result = StAdv(2.0, steps=4)(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice), bool(result.budgets["displacement_euclidean"].values <= 2)
    (True, True)

    Args:
        max_displacement: largest length of a voxel's displacement in mm. The paper has no limit.
        smoothness: factor of the total variation, the paper's tau.
        objective: see :class:`~monai_adversarial.attacks.Attack`.
        steps: gradient evaluations.
        relative_step: size of every step as a fraction of the budget; None for steps that fall linearly from the whole
            budget. They lowered Dice more than projected Adam on a crop of one phantom; the paper takes L-BFGS.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; ``random_start`` is False by default.

    Source: Xiao, Zhu, Li, He, Liu and Song, "Spatially transformed adversarial examples", ICLR 2018. Three dimensions,
    mm, the limit and the search are ours; the objective there is the hinge of Carlini and Wagner.

    Survey entry: X09 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        max_displacement: float = 2.0,
        smoothness: float = 0.05,
        objective: str | Objective = "dice",
        steps: int = 10,
        relative_step: float | None = None,
        **options: Any,
    ) -> None:
        charged = FlowPenalized(objective, smoothness=smoothness)
        options = {"random_start": False, **options}
        search = falling_or_given(1.0, relative_step, None)
        super().__init__(FlowField(max_displacement), charged, search, steps=steps, **options)
