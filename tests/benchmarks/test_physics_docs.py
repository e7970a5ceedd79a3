# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/frequency.md and docs/acquisition.md are those of their JSON files."""

from __future__ import annotations

import json

import pytest

from benchmarks.doc_tables import DOCS
from benchmarks.physics_docs import PAGES, attacks, table, with_table


@pytest.mark.parametrize("page", PAGES)
def test_the_table_is_made_of_the_json_file_and_of_the_attacks_of_today(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    assert with_table(page) == text
    rows = json.loads((DOCS / f"{page}.json").read_text(encoding="utf-8"))
    assert [row["attack"] for row in rows] == list(attacks(page))
    assert (DOCS / "images" / f"{page}.png").stat().st_size < 300_000
    for row in rows:
        if page == "acquisition" and row["attack"] != "all of them":
            continue  # one restart of a block alone may end on the wrong side, as the page says
        # Rounded to the digits of the table: what an attack finds is at least what chance does.
        assert row["adversarial"] <= row["random"] + 0.0005 and row["adversarial"] <= row["clean"] + 0.0005


def test_a_row_shows_what_was_measured() -> None:
    row = {"attack": "`A()`", "queries_asked": 7, "clean": 0.8, "random": 0.71, "queries": 0.62, "adversarial": 0.123}
    lines = table([{**row, "largest_change_hu": 40.4, "rms_change_hu": 3.26, "ssim": 0.9876}]).splitlines()
    assert "worst of 7 draws" in lines[0]
    assert lines[2] == "| `A()` | 0.800 | 0.710 | 0.620 | **0.123** | 40, 3.3 | 0.988 |"
