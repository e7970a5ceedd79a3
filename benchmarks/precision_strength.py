# SPDX-License-Identifier: Apache-2.0
"""The table of ``strength.py``: Dice after the same attack in every precision mode."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.settings import Settings
from benchmarks.strength import BUNDLE, strength_rows
from benchmarks.tables import Column, Table

__all__ = ["tables"]

TOLERANCE = 0.02


def tables(settings: Settings, say: Callable[[str], None]) -> list[Table]:
    """One row per mode; no rows, and a line that says why, without the bundle's weights."""
    table = Table(
        "strength",
        f"Mean organ Dice of {settings.cases} phantom(s) after PGD-{settings.steps} at 8 HU, scored in float32.",
        (
            *(Column("precision of the attack"), Column("Dice", 3), Column("difference to float32", 3)),
            *(Column("seconds", 1), Column("target")),
        ),
    )
    weights = BUNDLE / "models" / "model.pt"
    if not weights.is_file():
        table.notes.append(f"Not run: {weights.relative_to(BUNDLE.parent.parent)} is missing.")
        return [table]
    say("Dice after attack in every precision mode")
    rows = strength_rows(settings.device, settings.cases, settings.steps, settings.compiled)
    exact = {name: dice for name, dice, _ in rows}["float32"]
    for name, dice, seconds in rows:
        if name == "clean":
            table.add("no attack", dice, None, None, "")
            continue
        verdict = f"+-{TOLERANCE}: {'met' if abs(dice - exact) <= TOLERANCE else 'MISSED'}"
        table.add(name, dice, dice - exact, seconds, "" if name == "float32" else verdict)
    return [table]
