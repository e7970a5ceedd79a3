# SPDX-License-Identifier: Apache-2.0
"""Attacks by smooth changes of intensity."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.perturbations.bias_field import BiasField
from monai_adversarial.attacks.search.extremes_first import looking_first
from monai_adversarial.attacks.search.steepest_ascent import falling_or_given

__all__ = ["BiasFieldAttack"]


class BiasFieldAttack(Attack):
    """Adversarial smooth bias field (after Tian et al. 2021 and Chen et al. 2020; the 3D form for CT is a
    reconstruction).

    >>> from monai_adversarial.attacks import BiasFieldAttack
    >>> from monai_adversarial.data.example import example_case
    >>> result = BiasFieldAttack(max_gain=0.05, steps=3)(*example_case(16))
    >>> bool(result.adversarial_dice < result.clean_dice), result.budgets["gain"].units
    (True, 'percent')

    Args:
        max_gain: largest relative change of intensity, 0.3 for 30 %.
        degree: of the Legendre products, as in MONAI's ``RandBiasField``.
        domain: ``"window"`` (multiplies what the network's intensity window shows), ``"attenuation"`` (multiplies
            linear attenuation; images in HU) or ``"image"`` (multiplies the voxels as they are).
        window: HU pair for ``domain="window"`` where no ``intensity`` map gives one.
        zero_mean: forbid a change of the mean log gain, so that a global change of brightness is not called a bias
            field. Without it the strongest field is often little else.
        basis: ``"legendre"`` or ``"bspline"``.
        control_spacing: distance of the B-spline's control points in mm.
        steps: gradient evaluations. Of three or more the first two are of the darkest and the brightest field of the
            budget, which a gradient from a random start may miss (``ExtremesFirst``). With ``zero_mean`` B-splines go
            on from the stronger of the two, and polynomials begin at random without a look. What is found with
            ``zero_mean`` depends on the start, also behind a purifier that corrects bias fields: ``restarts``, which
            begin at random, are worth their cost there.
        relative_step: size of every step as a fraction of the length of a constant field at the budget; None for steps
            that fall linearly from twice that length (docs/search.md).
        schedule: of steps of ``relative_step``, which it asks for: ``"constant"`` (also None), or ``"linear"`` or
            ``"cosine"`` for steps that fall from there.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; ``objective`` is ``"dice"`` by
            default (docs/search.md).

    Source: Tian et al., "Bias field poses a threat to DNN-based X-ray recognition", ICME 2021; Chen et al., "Realistic
    adversarial data augmentation for MR image segmentation", MICCAI 2020. The 3D form for CT is a reconstruction.

    Survey entry: A10 (reconstruction), A11 (adapted), X10 (adapted).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        max_gain: float = 0.3,
        degree: int = 3,
        domain: str = "window",
        window: tuple[float, float] | None = None,
        zero_mean: bool = False,
        basis: str = "legendre",
        control_spacing: float = 64.0,
        steps: int = 10,
        relative_step: float | None = None,
        schedule: str | None = None,
        **options: Any,
    ) -> None:
        field = BiasField(
            max_gain=max_gain,
            degree=degree,
            basis=basis,
            control_spacing=control_spacing,
            domain=domain,
            window=window,
            zero_mean=zero_mean,
        )
        search = looking_first(field, falling_or_given(2.0, relative_step, schedule))
        super().__init__(field, search=search, steps=steps, **{"objective": "dice", **options})
