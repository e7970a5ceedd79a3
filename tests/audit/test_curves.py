# SPDX-License-Identifier: Apache-2.0
"""The area under robust Dice of a plan's series of budgets, from its records."""

from __future__ import annotations

import math
from typing import Any

import pytest

from monai_adversarial.audit.curves import curve_areas


def row(name: str, value: Any, series: str | None = "pgd", units: str = "HU") -> dict[str, Any]:
    return {"name": name, "series": series, "budget": {"value": value, "units": units}}


def record(name: str, case: str, adversarial: float, clean: float = 0.8, reference: str = "label") -> dict[str, Any]:
    mean = {"clean": {"dice": clean}, "adversarial": {"dice": adversarial}}
    return {"attack": name, "case": case, "reference": reference, "mean": mean}


ROWS = [row("pgd_8", 8), row("pgd_2", 2), row("bias", 0.1, None), row("other", 4, "alone")]


def test_areas_are_over_the_cases_that_have_every_row() -> None:
    records = [
        *(record("pgd_2", case, dice) for case, dice in (("a", 0.4), ("b", 0.6), ("c", 0.5), ("d", 0.5))),
        *(record("pgd_8", case, dice) for case, dice in (("a", 0.5), ("b", 0.2), ("d", math.nan))),
        record("bias", "a", 0.1),
        record("other", "a", 0.1),
    ]
    (found,) = curve_areas(records, ROWS)
    assert (found["series"], found["reference"], found["units"]) == ("pgd", "label", "HU")
    assert found["budgets"] == [2.0, 8.0] and found["n"] == found["area"]["n"] == 2
    # a: the 0.4 at 2 HU is also within 8 HU; b: 0.8, 0.6, 0.2
    areas = [(2 * 0.6 + 6 * 0.4) / 8, (2 * 0.7 + 6 * 0.4) / 8]
    assert found["area"]["mean"] == pytest.approx(sum(areas) / 2)
    assert found["relative_area"]["mean"] == pytest.approx(sum(areas) / 2 / 0.8)
    assert found["largest_rise"]["mean"] == pytest.approx(0.05)


def test_labels_and_clean_predictions_are_curves_of_their_own() -> None:
    records = [
        record(name, "a", dice, reference=reference)
        for reference in ("label", "clean prediction")
        for name, dice in (("pgd_2", 0.4), ("pgd_8", 0.2))
    ]
    assert [one["reference"] for one in curve_areas(records, ROWS)] == ["label", "clean prediction"]


@pytest.mark.parametrize(
    "rows",
    [
        [row("pgd_2", 2), row("pgd_8", 2)],
        [row("pgd_2", None), row("pgd_8", 8)],
        [row("pgd_2", 2), row("pgd_8", 8, units="fraction")],
        [row("pgd_2", "2"), row("pgd_8", 8)],
        [row("pgd_2", 2), row("not run", 8)],
    ],
)
def test_what_is_no_rising_budget_makes_no_curve(rows: list[dict[str, Any]]) -> None:
    assert curve_areas([record("pgd_2", "a", 0.4), record("pgd_8", "a", 0.2)], rows) == []
