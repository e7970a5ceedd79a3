# SPDX-License-Identifier: Apache-2.0
"""How many adversarial examples an ordinary transform undoes."""

from __future__ import annotations

import math

import torch

__all__ = ["destruction_rate"]


def destruction_rate(clean: torch.Tensor, adversarial: torch.Tensor, transformed: torch.Tensor) -> float:
    """Share of the successful adversarial examples that are answered right again after a transform.

    Cases count where the clean image is right and the adversarial one wrong; 1 means that the transform undoes every
    attack, 0 that all survive. For a segmentation, right is what the caller says, for example a mean Dice of at least
    half the clean one.

    >>> import torch
    >>> from monai_adversarial.metrics import destruction_rate
    >>> clean = torch.tensor([True, True, True, False])
    >>> adversarial = torch.tensor([False, False, True, False])
    >>> transformed = torch.tensor([True, False, True, True])
    >>> destruction_rate(clean, adversarial, transformed)
    0.5

    Args:
        clean: boolean (cases,), whether the clean image is answered right.
        adversarial: boolean (cases,), whether the adversarial image is.
        transformed: boolean (cases,), whether the adversarial image is after the transform.

    Returns:
        From 0 to 1; NaN where no example was successful.

    Raises:
        TypeError: for values that are not boolean.
        ValueError: for different shapes.

    Source: Kurakin, Goodfellow, Bengio, "Adversarial examples in the physical world", ICLR workshop 2017; the formula
    is quoted from memory (reconstruction).

    Survey entry: M09 (reconstruction).
    """
    for name, values in (("clean", clean), ("adversarial", adversarial), ("transformed", transformed)):
        if not isinstance(values, torch.Tensor) or values.dtype != torch.bool:
            kind = values.dtype if isinstance(values, torch.Tensor) else type(values).__name__
            raise TypeError(f"{name} must be a boolean tensor, got {kind}.")
        if values.shape != clean.shape:
            raise ValueError(f"{name} must have shape {tuple(clean.shape)} as clean has, got {tuple(values.shape)}.")
    successful = clean & ~adversarial
    if not bool(successful.any()):
        return math.nan
    return float((successful & transformed).sum() / successful.sum())
