# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/model_zoo.md are the CSV file beside it, and no row of it flatters."""

from __future__ import annotations

import pytest

from benchmarks.doc_tables import DOCS
from benchmarks.model_zoo import OVERLAY, with_tables
from benchmarks.zoo_cases import CASES, HU, SHARE
from monai_adversarial.studies.reports.tables import read_rows

PAGE = (DOCS / "model_zoo.md").read_text(encoding="utf-8")
ROWS = read_rows(DOCS / "model_zoo.csv")
NOT_SEGMENTATION = {
    *("lung_nodule_ct_detection", "breast_density_classification"),
    *("vista2d", "pathology_nuclei_segmentation_classification"),
}

#: pipelines that round images to half precision, or scale them by statistics that a change moves
ROUNDED = {(f"{name}_segmentation", "evaluate") for name in ("wholeBody_ct", "pancreas_ct_dints", "multi_organ")}


def test_tables_are_made_of_the_csv_file() -> None:
    assert with_tables(PAGE, DOCS) == PAGE


def test_every_config_has_a_row_and_every_segmentation_is_attacked() -> None:
    assert [(row["bundle"], row["config"]) for row in ROWS] == [(case.bundle, case.config) for case in CASES]
    assert {row["bundle"] for row in ROWS if row["outcome"] != "attacked"} == NOT_SEGMENTATION
    assert {row["outcome"] for row in ROWS} == {"attacked", "refused"}


@pytest.mark.parametrize("row", [row for row in ROWS if row["outcome"] == "attacked"], ids=lambda row: row["said"][:40])
def test_no_batch_is_left_out_and_the_printed_budget_is_used(row: dict) -> None:
    assert row["attacked"] == row["iterations"] > 0
    assert row["share_of_budget"] == pytest.approx(1, abs=1e-3)
    if row["budget"] == "8 HU":
        close = 0.04 if (row["bundle"], row["config"]) in ROUNDED else 0.01
        assert row["file_change"] == pytest.approx(row["largest_change"], rel=close)
        if "budget 8 HU = " in row["said"]:
            assert row["largest_change"] == pytest.approx(float(row["said"].rsplit("= ", 1)[1]), abs=1e-4)


def test_the_overlays_of_the_page_are_those_that_ran() -> None:
    for budget in (HU, SHARE):
        assert OVERLAY.format(engine="evaluator", **budget) in PAGE
