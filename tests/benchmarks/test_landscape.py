# SPDX-License-Identifier: Apache-2.0
"""The page shows the measured landscapes, and the rows agree with each other."""

from __future__ import annotations

from benchmarks.csv_rows import read_rows
from benchmarks.doc_tables import DOCS
from benchmarks.landscape import CELLS, NAME, PAGE, LandscapeRow, markdown_table


def test_the_page_has_the_measured_rows() -> None:
    rows = read_rows(DOCS / NAME, LandscapeRow)
    assert [(row.network, row.phantom) for row in rows] == list(CELLS)
    assert markdown_table(rows) in (DOCS / PAGE).read_text(encoding="utf-8")


def test_rows_are_possible() -> None:
    for row in read_rows(DOCS / NAME, LandscapeRow):
        assert 0 <= row.attacked_dice < row.clean_dice <= 1 and row.rise > row.random_rise
        assert row.sharpness >= row.rise / (1 + row.center) - 1e-9
        assert all(0 <= share <= 1 for share in (row.overlap, row.in_organ, row.clean_in_organ))
