# SPDX-License-Identifier: Apache-2.0
"""Audits stand beside each other only where they are the same test, and say what differs."""

from __future__ import annotations

import copy

import pytest

from monai_adversarial.audit.report.compare import differences, side_by_side
from tests.audit.report.example import example_summary


@pytest.fixture(scope="module")
def example():
    return example_summary()


def cells(tables, row, reference="label"):
    table = next(t for t in tables if t["reference"] == reference)
    return next(line for line in table["lines"] if line["row"]["name"] == row)["cells"]


def test_the_same_audit_of_another_network_differs_in_nothing(example):
    assert differences(example, example_summary(seed=3, strength=0.2)) == []


def test_the_same_rows_stand_beside_each_other(example):
    hardened = example_summary(strength=0.25)
    first, second = cells(side_by_side([example, hardened]), "pgd_8")
    assert first["verdict"] == "failed" and second["verdict"] == "weakened"
    assert first["parts"][-1]["text"] < second["parts"][-1]["text"]


def test_another_budget_is_not_put_beside(example):
    other = copy.deepcopy(example)
    next(row for row in other["plan"]["rows"] if row["name"] == "pgd_8")["budget"]["value"] = 1.0
    first, second = cells(side_by_side([example, other]), "pgd_8")
    assert first is not None and second is None
    assert any("Auto-PGD, 8 HU" in sentence for sentence in differences(example, other))


def test_other_cases_classes_data_and_seeds_are_said(example):
    other = copy.deepcopy(example)
    other["cases"] = [c for c in other["cases"] if (c["case"], c["row"]) != ("phantom_1", "bias")]
    other["target"]["classes"] = other["target"]["classes"][:-1]
    other["data"]["kind"] = "scans"
    other["seeds"] = {"attacks": 1}
    text = " ".join(differences(example, other))
    for part in ("1 of 3 cases there missing", "classes differ", "kind of data differs", "seeds differ"):
        assert part in text
