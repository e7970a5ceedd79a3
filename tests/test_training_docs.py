# SPDX-License-Identifier: Apache-2.0
"""The table of docs/adversarial_training.md is the CSV file beside it, and it is honest."""

from __future__ import annotations

import pytest

import monai_adversarial.handlers as handlers
from benchmarks.doc_tables import DOCS
from benchmarks.training_docs import CASES, COLUMNS, PAGE, TABLE, with_table
from monai_adversarial.studies.reports.tables import read_rows

TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
ROWS = {row["training"]: row for row in read_rows(DOCS / TABLE)}


def test_the_table_is_made_of_the_csv_file() -> None:
    assert with_table(TEXT, DOCS) == TEXT
    assert (DOCS / "images" / "adversarial_training.png").is_file()


def test_every_training_has_both_seeds_all_patients_and_all_attacks() -> None:
    required = {"clean", "pgd", "fast", "trades", "consistency", "semi_supervised"}
    assert required | {"dual_normalization, clean branch", "dual_normalization, adversarial branch"} <= set(ROWS)
    for row in ROWS.values():
        assert row["seeds"] == "0 1" and row["cases"] == 30
        for column in COLUMNS:
            assert 0 <= row[f"{column}_low"] <= row[column] <= row[f"{column}_high"] <= 1


def test_the_worst_attack_is_never_better_than_one_of_them() -> None:
    cases = [row for row in read_rows(DOCS / CASES) if row["organ"] == "mean"]
    assert len(cases) == 60 * len(ROWS)
    for row in cases:
        joined = [row[name] for name in ("clean", "FGSM", "PGD-50", "APGD ensemble")]
        assert row["worst"] == pytest.approx(min(joined), abs=1e-9)


def test_clean_training_collapses_and_adversarial_training_keeps_more_than_half() -> None:
    assert ROWS["clean"]["worst"] < 0.25 * ROWS["clean"]["clean"]
    assert ROWS["pgd"]["worst"] > 0.5 * ROWS["pgd"]["clean"]


def test_every_handler_is_on_the_page() -> None:
    assert [name for name in handlers.__all__ if f"`{name}" not in TEXT and f"{name}(" not in TEXT] == []
