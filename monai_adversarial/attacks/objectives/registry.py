# SPDX-License-Identifier: Apache-2.0
"""Objectives by name."""

from __future__ import annotations

from monai_adversarial.attacks.objectives.annealed_dice import AnnealedDice
from monai_adversarial.attacks.objectives.base import Objective
from monai_adversarial.attacks.objectives.cospgd import CosPGD
from monai_adversarial.attacks.objectives.cross_entropy import BalancedCrossEntropy, CrossEntropy
from monai_adversarial.attacks.objectives.dice import Dice
from monai_adversarial.attacks.objectives.dice_ce import DiceCE
from monai_adversarial.attacks.objectives.dlr import DLR
from monai_adversarial.attacks.objectives.jensen_shannon import JensenShannon
from monai_adversarial.attacks.objectives.margin import Margin
from monai_adversarial.attacks.objectives.masked_cross_entropy import BalancedMaskedCrossEntropy, MaskedCrossEntropy
from monai_adversarial.attacks.objectives.segpgd import SegPGD

__all__ = ["OBJECTIVES", "get_objective"]

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_entropy": CrossEntropy,
    "balanced_cross_entropy": BalancedCrossEntropy,
    "masked_cross_entropy": MaskedCrossEntropy,
    "balanced_masked_cross_entropy": BalancedMaskedCrossEntropy,
    "dice": Dice,
    "dice_ce": DiceCE,
    "annealed_dice": AnnealedDice,
    "segpgd": SegPGD,
    "cospgd": CosPGD,
    "jensen_shannon": JensenShannon,
    "margin": Margin,
    "dlr": DLR,
}

# what the literature calls them
ALIASES = {"ce": "cross_entropy", "mce": "masked_cross_entropy", "jsd": "jensen_shannon"}


def get_objective(objective: str | Objective) -> Objective:
    """An objective with default settings by its name, or the given objective itself.

    >>> from monai_adversarial.attacks import get_objective
    >>> get_objective("jsd")
    JensenShannon(balanced=False)
    >>> get_objective("hinge")
    Traceback (most recent call last):
    ValueError: objective must be one of ...

    Args:
        objective: a name of ``OBJECTIVES``, one of the short names ``"ce"``, ``"mce"``, ``"jsd"``, or an
            :class:`Objective`.

    Raises:
        ValueError: for an unknown name.
        TypeError: for anything else.
    """
    if isinstance(objective, Objective):
        return objective
    if not isinstance(objective, str):
        raise TypeError(f"objective must be a name or an Objective, got {type(objective).__name__}.")
    name = ALIASES.get(objective, objective)
    if name not in OBJECTIVES:
        names = ", ".join(repr(known) for known in (*OBJECTIVES, *ALIASES))
        raise ValueError(f"objective must be one of {names}, got {objective!r}.")
    return OBJECTIVES[name]()
