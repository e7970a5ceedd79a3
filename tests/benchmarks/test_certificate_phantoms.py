# SPDX-License-Identifier: Apache-2.0
"""The page shows the measured certificates of the CT bundle's network, and the rows agree with each other."""

from __future__ import annotations

from benchmarks.certificate_phantoms import CELLS, COPIES, NAME, PhantomRow, markdown_table
from benchmarks.csv_rows import read_rows
from benchmarks.doc_tables import DOCS, renew_table


def test_the_page_has_the_measured_rows(tmp_path) -> None:
    rows = read_rows(DOCS / NAME, PhantomRow)
    assert [(row.network, row.variant, row.phantoms) for row in rows] == list(CELLS)
    page = tmp_path / "certificates.md"
    page.write_text((DOCS / "certificates.md").read_text(encoding="utf-8"), encoding="utf-8")
    before = page.read_text(encoding="utf-8")
    assert markdown_table(rows) in before
    renew_table(page, NAME, markdown_table(rows))
    assert page.read_text(encoding="utf-8") == before


def test_rows_are_possible() -> None:
    for row in read_rows(DOCS / NAME, PhantomRow):
        assert 0 < row.lower_dice <= row.voted_dice <= 1 and 0 <= row.missed < 1
        assert 0 < row.liver_ml <= row.liver_reference_ml and row.copies <= COPIES + 10
