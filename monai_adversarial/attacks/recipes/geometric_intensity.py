# SPDX-License-Identifier: Apache-2.0
"""A deformation and a smooth shading at once."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.perturbations.bias_field import BiasField
from monai_adversarial.attacks.perturbations.chain import Chain
from monai_adversarial.attacks.perturbations.deformation import ElasticDeformation
from monai_adversarial.attacks.search import SteepestAscent
from monai_adversarial.attacks.search.extremes_first import looking_first

__all__ = ["GeometricIntensityAttack", "geometric_intensity"]


def geometric_intensity(max_displacement: float, max_gain: float, control_spacing: float) -> Chain:
    """A deformation without folds, then a smooth field of gains, both on grids of the same spacing in mm."""
    return Chain(
        [
            ElasticDeformation(max_displacement, control_spacing),
            BiasField(max_gain, basis="bspline", control_spacing=control_spacing),
        ]
    )


class GeometricIntensityAttack(Attack):
    """The worst deformation without folds followed by the worst smooth shading, sought for each image.

    With :func:`~monai_adversarial.attacks.prescribed_drop` it is the form without a generator of Chen's attack: the
    smallest such perturbation at which Dice has fallen by a given share.

    Example:
        >>> from monai_adversarial.attacks import GeometricIntensityAttack
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case(16)
        >>> result = GeometricIntensityAttack(8.0, 0.3, steps=3)(model, image, label)
        >>> bool(result.adversarial_dice < result.clean_dice)
        True

    Args:
        max_displacement: largest displacement in mm.
        max_gain: largest gain minus one.
        control_spacing: distance of the controls of both fields in mm.
        steps: gradient evaluations; they fall linearly from the whole budget. Of three or more the first two are of the
            darkest and the brightest shading without a deformation (``ExtremesFirst``).
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`; ``objective`` is ``"dice"`` by
            default.

    Source: Chen et al. 2019, of which the abstract could be read: fields, budgets and search are ours.

    Survey entry: A09 (reconstruction).
    """

    fixed_arguments = ("perturbation", "search")

    def __init__(
        self,
        max_displacement: float = 10.0,
        max_gain: float = 0.5,
        control_spacing: float = 32.0,
        steps: int = 10,
        **options: Any,
    ) -> None:
        moved = geometric_intensity(max_displacement, max_gain, control_spacing)
        search = looking_first(moved, SteepestAscent(1.0, schedule="linear"))
        super().__init__(moved, search=search, steps=steps, **{"objective": "dice", **options})
