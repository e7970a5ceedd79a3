# SPDX-License-Identifier: Apache-2.0
"""When an attack counts as successful: one rule for attacks, handlers and studies."""

from __future__ import annotations

from typing import TypeVar

import torch

__all__ = ["success", "success_rule"]

Number = TypeVar("Number", float, torch.Tensor)


def success(clean: Number, adversarial: Number, threshold: float, targeted: bool = False) -> bool | torch.Tensor:
    """Whether an attack succeeded; never where a Dice is NaN.

    Args:
        clean: mean Dice before the attack.
        adversarial: mean Dice afterwards; of a targeted attack that with the wanted segmentation.
        threshold: untargeted: largest share of the clean Dice that may be left; targeted: least Dice.
        targeted: which of the two rules.

    Source: the threshold of half the clean Dice follows the code of ROG (Daza, Pérez and Arbeláez, MICCAI 2021), which
    takes half of the mean over cases; here it is half of each case.

    Survey entry: M01 (adapted).
    """
    return adversarial >= threshold if targeted else adversarial < threshold * clean


def success_rule(threshold: float, targeted: bool = False) -> str:
    """The rule in words, for reports."""
    if targeted:
        return f"Dice with the wanted segmentation of at least {threshold:g}"
    return f"Dice below {threshold:g} times the clean Dice"
