# SPDX-License-Identifier: Apache-2.0
"""When the score before an attack is so low that the score under attack says nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["LOW_CLEAN", "NO_CLEAN", "low_clean_caution", "low_organ_caution"]

#: clean Dice with the label below which what an attack leaves says little
LOW_CLEAN = 0.5
#: and below which nothing follows from any attack: there is nothing to lose
NO_CLEAN = 0.2


def low_clean_caution(clean_dice: torch.Tensor, hint: str = "") -> str:
    """Why a small loss is no robustness where the clean Dice with the label is low; empty where none is.

    Args:
        clean_dice: of each sample, (batch,); NaN does not count.
        hint: what is known of the reason, appended.
    """
    low, known = int((clean_dice < LOW_CLEAN).sum()), int((~clean_dice.isnan()).sum())
    if not low:
        return ""
    return (
        f"caution: the clean Dice is below {LOW_CLEAN} in {low} of {known}, so that little can be lost: check class "
        "numbers, orientation, voxel spacing and intensity map before a small loss is taken for robustness"
        + (f"; {hint}" if hint else "")
    )


def low_organ_caution(organs: Sequence[str], clean_dice: torch.Tensor) -> str:
    """Which organs have little to lose although their mean has; empty where none is.

    Args:
        organs: names, in the order of the columns.
        clean_dice: (case, organ), with the label; NaN does not count.
    """
    means = clean_dice.double().nanmean(dim=0).tolist()
    low = [f"{name} ({mean:.2f})" for name, mean in zip(organs, means, strict=True) if mean < LOW_CLEAN]
    if not low:
        return ""
    return (
        f"caution: the clean Dice of {', '.join(low)} is below {LOW_CLEAN}, so that little can be lost there: what is "
        "left of the mean is no robustness of these"
    )
