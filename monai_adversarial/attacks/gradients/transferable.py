# SPDX-License-Identifier: Apache-2.0
"""The changes of a gradient that make it transfer, by their names in the literature."""

from __future__ import annotations

from monai_adversarial.attacks.gradients.base import GradientEstimator
from monai_adversarial.attacks.gradients.exact import ExactGradient
from monai_adversarial.attacks.gradients.transfer import (
    InputDiversity,
    NesterovLookahead,
    ScaleInvariance,
    TranslationInvariance,
    VarianceTuning,
)
from monai_adversarial.utils.validation import check_count, check_fraction

__all__ = ["transferable"]


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

    Behind sliding windows the exact gradient takes two forward passes per window, and holds the answer for the whole
    volume besides one batch of windows. With 27 windows this is 2 to 3 times the memory of the default of ``PGD``, and
    a third of that of plain automatic differentiation. ``transferable(WindowwiseGradient(), ...)`` takes no more than
    that default with ``translation`` and ``nesterov``. With any gradient, ``diversity``, ``scales`` and ``variance``
    look at the whole answer.

    Args:
        estimator: computes the gradient; None for ``ExactGradient``.
        diversity: probability of :class:`~monai_adversarial.attacks.InputDiversity` (DI), 0 for none.
        translation: kernel of :class:`~monai_adversarial.attacks.TranslationInvariance` (TI) in voxels, 0 for none.
        scales: copies of :class:`~monai_adversarial.attacks.ScaleInvariance` (SI), 1 for none.
        nesterov: momentum of :class:`~monai_adversarial.attacks.NesterovLookahead` (NI), None for none.
        variance: samples of :class:`~monai_adversarial.attacks.VarianceTuning` (VMI), 0 for none.

    Raises:
        ValueError: for a probability outside 0 to 1, an even kernel, or less than none of something.

    Example:
        >>> from monai_adversarial.attacks import transferable
        >>> type(transferable(diversity=0.5, translation=7)).__name__
        'TranslationInvariance'
    """
    check_fraction("diversity", diversity)
    if check_count("translation", translation, minimum=0) and translation % 2 == 0:
        raise ValueError(f"translation must be odd, so that the kernel has a middle, or 0 for none, got {translation}.")
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
