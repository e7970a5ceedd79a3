# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/black_box.md and docs/transfer.md are what the JSON files beside them say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import query_curve, transfer_study
from benchmarks.doc_tables import DOCS, replace_table


@pytest.mark.parametrize(("study", "name"), [(query_curve, "black_box"), (transfer_study, "transfer")])
def test_the_tables_are_made_of_the_json_file(study: object, name: str) -> None:
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    content = json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))
    renewed = text
    for table, value in study.tables(content).items():  # type: ignore[attr-defined]
        renewed = replace_table(renewed, table, value)
    assert renewed == text


def test_verdicts_follow_the_numbers() -> None:
    def run(bias_field: float, ssim: float) -> dict[str, object]:
        names = ["U-Net, random", "U-Net, pre-trained", "SegResNet, random", "SegResNet, pre-trained"]
        attacks = {
            kind: {
                "clean": [[0.9, 0.9]] * 4,
                "adversarial": [[dice, dice - 0.1 * (row % 2)] for row in range(4)],
                "shuffled": [[0.8, 0.8]] * 4,
            }
            for kind, dice in (("FGSM", 0.6), ("BIM", 0.6), ("MI-FGSM", 0.6), ("bias field", bias_field))
        }
        shown = {"FGSM": ssim, "PGD": 0.9}
        return {"surrogates": names, "targets": names[:2], "attacks": attacks, "ssim_at_8_hu": shown}

    found = [one["verdict"] for one in transfer_study.claims([run(0.7, 0.8), run(0.7, 0.95)])]
    assert found == ["confirmed", "confirmed", "refuted", "not settled: seeds disagree"]
    assert transfer_study.claims([run(0.2, 0.8)])[2]["verdict"] == "confirmed"


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
