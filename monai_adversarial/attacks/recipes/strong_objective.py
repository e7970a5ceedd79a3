# SPDX-License-Identifier: Apache-2.0
"""The objective of recipes that leave it open."""

from __future__ import annotations

from typing import Any

__all__ = ["with_strong_objective"]


def with_strong_objective(options: dict[str, Any]) -> dict[str, Any]:
    """Options with the objective that was strongest with few steps, where none is given.

    Annealed Dice compares candidates by the Dice of the decisions. That of all organs falls before one of them is where
    a targeted attack wants it, so that the clean image would be handed back: such an attack follows Dice +
    cross-entropy, unless ``classes`` says what shall change.

    Args:
        options: of a recipe, ``targeted`` and ``classes`` among them.
    """
    counts_all = options.get("targeted") and options.get("classes") is None
    return {"objective": "dice_ce" if counts_all else "annealed_dice", **options}
