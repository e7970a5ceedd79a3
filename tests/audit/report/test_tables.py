# SPDX-License-Identifier: Apache-2.0
"""Tables hold what the summary holds, a row each, and open safely."""

from __future__ import annotations

import csv
import io
import math

import pytest

from monai_adversarial.audit.report.tables import case_rows, csv_text, summary_rows
from tests.audit.report.example import ORGANS, example_summary


@pytest.fixture(scope="module")
def example():
    return example_summary()


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_a_row_per_case_row_and_organ(example):
    rows = read(csv_text(case_rows(example), ("case",)))
    assert len(rows) == len(example["cases"]) * (len(ORGANS) + 1)
    assert len({(r["case"], r["row"], r["organ"]) for r in rows}) == len(rows)
    case = next(c for c in example["cases"] if (c["case"], c["row"]) == ("phantom_1", "pgd_4"))
    row = next(r for r in rows if (r["case"], r["row"], r["organ"]) == ("phantom_1", "pgd_4", "aorta"))
    assert float(row["adversarial_dice"]) == pytest.approx(case["scores"]["adversarial"]["aorta"]["dice"], rel=1e-5)
    mean = next(r for r in rows if (r["case"], r["row"], r["organ"]) == ("phantom_1", "pgd_4", "mean"))
    assert mean["success"] == "1" and mean["change [HU]"] == "4"


def test_what_is_not_defined_is_an_empty_cell(example):
    absent = [c for c in example["cases"] for s in c["scores"].values() for o in s.values() if math.isnan(o["hd95_mm"])]
    assert absent, "the example has an organ that is gone"
    rows = read(csv_text(case_rows(example), ("case",)))
    assert any(r["adversarial_hd95_mm"] == "" and r["adversarial_dice"] for r in rows if r["row"] == "pgd_8")
    assert not any("nan" in value.lower() for r in rows for value in r.values())


def test_references_stay_apart(example):
    rows = read(csv_text(summary_rows(example), ("row",)))
    assert {(r["row"], r["reference"]) for r in rows} == {(r["row"], r["reference"]) for r in example["results"]}
    assert len(rows) == len(example["results"]) * (len(ORGANS) + 1)


def test_names_that_are_formulas_are_quoted(example):
    case = {**example["cases"][0], "case": "=HYPERLINK(0)", "scores": {"clean": {"@organ": {"dice": 0.5}}}}
    text = csv_text(case_rows({**example, "cases": [case]}), ("case",))
    assert not any(value.startswith(("=", "+", "-", "@")) for row in csv.reader(io.StringIO(text)) for value in row)


def test_a_table_without_rows_has_its_head():
    assert csv_text([], ("case", "row")) == "case,row\n"
