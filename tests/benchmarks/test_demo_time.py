# SPDX-License-Identifier: Apache-2.0
"""The demo of before and of today: sums, ratios within a round, and a weaker attack is said."""

from __future__ import annotations

from typing import Any

from benchmarks.demo_time import PAGE, TABLE, TITLES, table
from benchmarks.doc_tables import DOCS, replace_table
from benchmarks.parts import Record


def run(seconds: float, dice: float, steps: int, command: float) -> dict[str, Any]:
    units = [
        {
            "attack": attack,
            "case": case,
            "attack_seconds": seconds,
            "unit_seconds": seconds + 1,
            "dice": dice + 0.1 * number,
            "passes": [steps + 2, steps],
        }
        for attack in ("pgd", "bias_field", "elastic")
        for number, case in enumerate(("a", "b"))
    ]
    return {"command": command, "units": units}


def test_attacks_are_summed_over_cases_and_compared_round_by_round() -> None:
    found = table([run(10, 0.4, 20, 90), run(20, 0.4, 20, 110)], [run(4, 0.3, 10, 40), run(4, 0.3, 10, 60)])
    rows = {row[0]: row for row in found.rows}
    assert list(rows) == list(TITLES.values())
    pgd, whole = rows["PGD, 8 HU"], rows["all three"]
    assert pgd[1:6] == ["22 + 20", "12 + 10", 30.0, 8.0, 8 / 30]
    assert pgd[6] == "0.40, 0.20" and pgd[7:9] == [0.45, 0.35] and pgd[9] == "<= 0.5: met"
    assert whole[3:5] == [90.0, 24.0]
    assert "2 of its 3 phantoms" in found.title and "(0.31)" in found.notes[0] and "(0.50)" in found.notes[0]


def test_a_weaker_attack_and_a_missed_half_are_said() -> None:
    found = table([run(10, 0.3, 20, 90)], [run(6, 0.4, 10, 40)])
    assert all(row[9] == "<= 0.5: MISSED; Dice is higher" for row in found.rows)


def test_the_page_is_what_the_record_says() -> None:
    record = Record.read(DOCS / "benchmarks" / "demo.json")
    text = (DOCS / PAGE).read_text(encoding="utf-8")
    assert replace_table(text, TABLE, record.shown(record.tables[0])) == text
