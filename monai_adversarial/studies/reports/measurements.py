# SPDX-License-Identifier: Apache-2.0
"""What was measured of the budget, over the cases of one attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["worst_measurements", "worst_value"]

Record = Mapping[str, Any]


def worst_measurements(records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Per measurement the value closest to (or furthest over) its limit; the largest where there is no limit."""
    found: dict[str, dict[str, Any]] = {}
    for name, first in records[0]["measurements"].items():
        of_name = [r["measurements"][name] for r in records if name in r["measurements"]]
        kept = {key: first.get(key) for key in ("units", "limit", "bound", "norm")}
        tolerance = max(measured["tolerance"] for measured in of_name)
        values = [measured["value"] for measured in of_name]
        found[name] = {"worst": worst_value(values, first["bound"]), **kept, "tolerance": tolerance}
    return found


def worst_value(values: Sequence[float | None], bound: str | None) -> float | None:
    """The smallest value where the bound is a lower one, else the largest; None where none is defined."""
    defined = [value for value in values if value is not None]
    return (min if bound == "lower" else max)(defined) if defined else None
