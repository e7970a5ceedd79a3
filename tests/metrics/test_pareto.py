# SPDX-License-Identifier: Apache-2.0
"""The front of robustness, accuracy and cost."""

from __future__ import annotations

import math
from typing import Any

import pytest

from monai_adversarial.metrics import ParetoTable

ROWS = {
    "plain": {"clean": 0.9, "robust": 0.1, "cost": 1},
    "twin": {"clean": 0.9, "robust": 0.1, "cost": 1},
    "trained": {"clean": 0.8, "robust": 0.6, "cost": 8},
    "slow": {"clean": 0.8, "robust": 0.6, "cost": 9},
    "weak": {"clean": 0.7, "robust": 0.05, "cost": 8},
}


def test_who_is_beaten_by_whom() -> None:
    table = ParetoTable(ROWS)
    assert table.front == ("plain", "twin", "trained")  # equal rows do not beat each other
    assert table.beaten_by("slow") == ("trained",)
    assert table.beaten_by("weak") == ("plain", "twin", "trained")
    assert ParetoTable(ROWS, ["clean"], []).front == ("plain", "twin")
    assert ParetoTable(ROWS, ["robust"], []).front == ("trained", "slow")


def test_the_table_says_why() -> None:
    lines = str(ParetoTable(ROWS)).splitlines()
    assert lines[0] == "| | clean | robust | cost | on the front |"
    assert lines[4] == "| trained | 0.8 | 0.6 | 8 | yes |" and lines[5].endswith("| no: trained |")


@pytest.mark.parametrize("value", [math.nan, math.inf, None, "0.5", True])
def test_a_row_without_its_number_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"rows\['a'\] must hold a finite number 'robust'"):
        ParetoTable({"a": {"clean": 0.5, "robust": value, "cost": 1}})
    for rows, maximize in (({}, ["clean"]), (ROWS, ["cost"])):
        with pytest.raises(ValueError, match="distinct numbers"):
            ParetoTable(rows, maximize)
