# SPDX-License-Identifier: Apache-2.0
"""What a series of rows with rising budgets says together: the area under robust Dice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.metrics import RobustDiceCurve, summarize
from monai_adversarial.studies.measurement import by_reference

__all__ = ["curve_areas"]

Record = Mapping[str, Any]
NUMBERS = ("area", "relative_area", "largest_rise")


def curve_areas(records: Sequence[Record], rows: Sequence[Mapping[str, Any]], seed: int = 0) -> list[dict[str, Any]]:
    """For each series of rows with two budgets or more, and kind of reference: the areas of ``RobustDiceCurve``.

    Only cases count that have every row of the series and a Dice in each. Budgets that are no numbers, or that two rows
    share, make no curve.

    Args:
        records: of an audit.
        rows: of the plan.
        seed: of the bootstrap.

    Returns:
        ``series``, ``reference``, ``units``, ``budgets``, ``n``, and summaries over the cases of ``area``,
        ``relative_area`` and ``largest_rise``.
    """
    series: dict[str, list[tuple[float, Mapping[str, Any]]]] = {}
    for row in rows:
        budget = row.get("budget") or {}
        if row.get("series") and _is_budget(budget.get("value")):
            series.setdefault(row["series"], []).append((float(budget["value"]), row))
    found = []
    for reference, of_reference in by_reference(records).items():
        by_row: dict[str, dict[str, Record]] = {}
        for record in of_reference:
            by_row.setdefault(record["attack"], {})[record["case"]] = record
        for name, members in series.items():
            points = sorted(((value, row) for value, row in members if row["name"] in by_row), key=lambda one: one[0])
            budgets = [value for value, _ in points]
            units = {row["budget"].get("units") for _, row in points}
            if len(set(budgets)) < 2 or len(set(budgets)) < len(budgets) or len(units) > 1:
                continue
            numbers = _numbers(budgets, [by_row[row["name"]] for _, row in points])
            if numbers:
                found.append(
                    {
                        "series": name,
                        "reference": reference,
                        "units": units.pop(),
                        "budgets": budgets,
                        "n": len(numbers["area"]),
                        **{key: dict(summarize(numbers[key], seed)) for key in NUMBERS},
                    }
                )
    return found


def _is_budget(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _numbers(budgets: Sequence[float], rows: Sequence[Mapping[str, Record]]) -> dict[str, list[float]]:
    """Columns of the curve over the cases that every row has; empty without one."""
    scores = []
    for case, first in rows[0].items():
        if not all(case in row for row in rows):
            continue
        dice = [first["mean"]["clean"]["dice"], *(row[case]["mean"].get("adversarial", {}).get("dice") for row in rows)]
        if all(value is not None and not math.isnan(value) for value in dice):
            scores.append(dice)
    if not scores:
        return {}
    table = torch.tensor(scores, dtype=torch.float64)
    curve = RobustDiceCurve(budgets)
    # Rows alone: one process reports, and gathering would wait for the others.
    found = curve.rows(table[:, 1:], table[:, 0])
    return {key: found[:, curve.columns.index(key)].tolist() for key in NUMBERS}
