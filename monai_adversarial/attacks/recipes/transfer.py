# SPDX-License-Identifier: Apache-2.0
"""Attacks that transfer from networks that are known to one that is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai_adversarial.attacks.gradients import SurrogateGradient, transferable
from monai_adversarial.attacks.recipes.gradient_sign import MIFGSM
from monai_adversarial.models.attacked_model import AttackedModel

__all__ = ["EnsembleTransfer"]


class EnsembleTransfer(MIFGSM):
    """Momentum, input diversity and smoothed gradients of an ensemble, for a network that is never asked.

    MI-FGSM along the mean probability of the surrogates (Liu et al. 2017), with DI and TI. The attacked network is
    asked about the clean image and the outcome alone.

    Survey entry: A20 (adapted), A04 (adapted).

    Args:
        epsilon: radius of the budget, in ``units``.
        surrogates: models that take what the attacked one takes.
        units: see :class:`~monai_adversarial.attacks.PGD`.
        steps: gradient evaluations.
        average: see :class:`~monai_adversarial.attacks.SurrogateGradient`.
        diversity, translation, scales, variance: see :func:`transferable`.
        options: further arguments of :class:`~monai_adversarial.attacks.MIFGSM`.

    Example:
        >>> from monai_adversarial.attacks import EnsembleTransfer
        >>> from monai_adversarial.data.example import example_case
        >>> (model, image, label), (surrogate, _, _) = example_case(), example_case()
        >>> EnsembleTransfer(16, [surrogate], units="HU", steps=3)(model, image, label).forwards
        2
    """

    fixed_arguments = ("perturbation", "search", "gradient")

    def __init__(
        self,
        epsilon: float,
        surrogates: AttackedModel | Callable[..., Any] | Sequence[AttackedModel | Callable[..., Any]],
        units: str = "network",
        steps: int = 10,
        average: str = "probability",
        diversity: float = 0.5,
        translation: int = 7,
        scales: int = 1,
        variance: int = 0,
        **options: Any,
    ) -> None:
        inner = transferable(diversity=diversity, translation=translation, scales=scales, variance=variance)
        gradient = SurrogateGradient(surrogates, average, inner)
        super().__init__(epsilon, units, steps, gradient=gradient, **options)
