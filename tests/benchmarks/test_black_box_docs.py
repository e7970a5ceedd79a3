# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/black_box.md are what the JSON file beside it says."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import query_curve
from benchmarks.doc_tables import DOCS, replace_table


def test_the_tables_are_made_of_the_json_file() -> None:
    text = (DOCS / "black_box.md").read_text(encoding="utf-8")
    content = json.loads((DOCS / "black_box.json").read_text(encoding="utf-8"))
    renewed = text
    for table, value in query_curve.tables(content).items():
        renewed = replace_table(renewed, table, value)
    assert renewed == text


def test_every_attack_by_queries_beats_random_search_where_the_table_ends() -> None:
    content = json.loads((DOCS / "black_box.json").read_text(encoding="utf-8"))
    most = max(query_curve.QUERIES)
    dice = {(row["attack"], row["case"]): row["dice"] for row in content["rows"] if row["queries"] == most}
    for (attack, case), value in dice.items():
        if attack not in (query_curve.BASELINE, "HopSkipJump"):
            assert value < dice[query_curve.BASELINE, case], (attack, case)


def test_queries_of_the_table_were_counted() -> None:
    content = json.loads((DOCS / "black_box.json").read_text(encoding="utf-8"))
    for row in content["rows"]:
        if row["attack"] != query_curve.WHITE_BOX:
            assert row["forwards"] == row["queries"] + 2 and row["backwards"] == 0


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    content = json.loads((DOCS / "black_box.json").read_text(encoding="utf-8"))
    query_curve.plot(content, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
