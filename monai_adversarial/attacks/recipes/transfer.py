# SPDX-License-Identifier: Apache-2.0
"""Attacks that transfer from networks that are known to one that is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from monai_adversarial.attacks.gradients.base import GradientEstimator
from monai_adversarial.attacks.gradients.exact import ExactGradient
from monai_adversarial.attacks.gradients.surrogate import SurrogateGradient
from monai_adversarial.attacks.gradients.transfer import (
    InputDiversity,
    NesterovLookahead,
    ScaleInvariance,
    TranslationInvariance,
    VarianceTuning,
)
from monai_adversarial.attacks.recipes.gradient_sign import MIFGSM
from monai_adversarial.models.attacked_model import AttackedModel

__all__ = ["EnsembleTransfer", "transferable"]


def transferable(
    estimator: GradientEstimator | None = None,
    *,
    diversity: float = 0.0,
    translation: int = 0,
    scales: int = 1,
    nesterov: float | None = None,
    variance: int = 0,
) -> GradientEstimator:
    """A gradient with the changes of the literature that make it transfer, in the order in which they are combined.

    Args:
        estimator: computes the gradient; None for ``ExactGradient``.
        diversity: probability of :class:`~monai_adversarial.attacks.InputDiversity` (DI), 0 for none.
        translation: kernel of :class:`~monai_adversarial.attacks.TranslationInvariance` (TI) in voxels, 0 for none.
        scales: copies of :class:`~monai_adversarial.attacks.ScaleInvariance` (SI), 1 for none.
        nesterov: momentum of :class:`~monai_adversarial.attacks.NesterovLookahead` (NI), None for none.
        variance: samples of :class:`~monai_adversarial.attacks.VarianceTuning` (VMI), 0 for none.

    Example:
        >>> from monai_adversarial.attacks import transferable
        >>> type(transferable(diversity=0.5, translation=7)).__name__
        'TranslationInvariance'
    """
    made: GradientEstimator = ExactGradient() if estimator is None else estimator
    if diversity:
        made = InputDiversity(diversity, estimator=made)
    if scales != 1:
        made = ScaleInvariance(scales, estimator=made)
    if variance:
        made = VarianceTuning(variance, estimator=made)
    if nesterov is not None:
        made = NesterovLookahead(nesterov, estimator=made)
    if translation:
        made = TranslationInvariance(translation, estimator=made)
    return made


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
