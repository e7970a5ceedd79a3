# SPDX-License-Identifier: Apache-2.0
"""The table of what detectors cost is that of its CSV file, and every row can be measured."""

from __future__ import annotations

import pytest

from benchmarks import detector_cost
from benchmarks.doc_tables import DOCS, replace_table


def test_the_page_has_the_rows_of_the_file() -> None:
    rows = detector_cost.read()
    assert len(rows) > 10
    text = (DOCS / "detection.md").read_text(encoding="utf-8")
    assert replace_table(text, detector_cost.CSV, detector_cost.markdown(rows)) == text
    # What is held to the limit holds it, or the page names it.
    over = [row["detector"] for row in rows if row["passes"] == "1" and float(row["score"]) > detector_cost.MOST]
    said = text.split("## What it costs")[1].split("<!--")[0]
    assert all(f"`{name}`" in said for name in over)


def test_a_row_is_measured() -> None:
    pytest.importorskip("sklearn")
    first, row = detector_cost.measure(16, (4, 8, 8), rounds=1, only="KernelDensity")
    assert first["detector"] == "one prediction" and row["detector"] == "KernelDensity"
    assert float(row["score"]) > 0 and float(row["fit"]) > 0 and float(row["megabytes"]) >= 0
