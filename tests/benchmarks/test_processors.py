# SPDX-License-Identifier: Apache-2.0
"""The table by processor is what its record says, and its first row what the other tables of the page say."""

from __future__ import annotations

import json

from benchmarks import processors
from benchmarks.doc_tables import DOCS
from benchmarks.peer_strength import OURS_DEFAULT

ROWS = json.loads(processors.RECORDED.path.read_text(encoding="utf-8"))["rows"]


def test_the_page_is_what_the_record_says() -> None:
    text = (DOCS / processors.PAGE).read_text(encoding="utf-8")
    assert processors.with_table(text, DOCS) == text


def test_the_first_row_is_of_the_tables_above_it() -> None:
    assert ROWS[0] == processors.stored_row(DOCS / "benchmarks")


def test_all_reach_the_same_dice_and_who_is_slower_is_said() -> None:
    for row in ROWS:
        goal = row["reached"]["torchattacks PGD, cross-entropy"]["dice"]
        assert all(one["dice"] <= goal for one in row["reached"].values())
        ours = row["reached"][OURS_DEFAULT]["cpu"]
        (line,) = [one for one in processors.table([row]).splitlines() if processors.named(row["machine"]) in one]
        assert line.count("faster than ours") == sum(one["cpu"] < ours for one in row["reached"].values())
    assert len({processors.named(row["machine"]) for row in ROWS}) == len(ROWS) > 1
