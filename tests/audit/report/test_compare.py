# SPDX-License-Identifier: Apache-2.0
"""Audits stand beside each other only where they are the same test, and say what differs."""

from __future__ import annotations

import copy
import json

import pytest

from monai_adversarial.audit.report import write_report
from monai_adversarial.audit.report.check import check_summary
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


def test_other_images_and_labels_under_the_same_names_are_said(example):
    other = copy.deepcopy(example)
    for case in other["cases"]:
        if case["case"] == "phantom_0":
            case["content"]["image"] = "another"
        if case["case"] == "phantom_1":
            case["content"]["label"] = "another"
    found = differences(example, other)
    assert "Not the same image under one name, so that nothing is compared: 1 of 4." in found
    assert "Not the same label under one name, so that nothing is compared: 1 of 4." in found


def test_one_file_that_was_compressed_anew_is_the_same_image(example):
    first, other = (copy.deepcopy(example) for _ in range(2))
    for one in (first, other):
        for case in one["cases"]:
            case["content"]["voxels"] = case["case"]
    for case in other["cases"]:
        case["content"]["image"] = "another file"
    assert differences(first, other) == []


def test_audits_without_a_record_of_their_images_say_so(example):
    old = copy.deepcopy(example)
    for case in old["cases"]:
        del case["content"]
    assert differences(example, old) == ["Whether images of one name are the same was not recorded in 4 of 4."]


def test_what_else_makes_figures_of_two_audits_differ_is_said(example):
    other = copy.deepcopy(example)
    other["versions"] = {**other["versions"], "monai_adversarial": "9.9"}
    other["plan"]["surface_tolerance_mm"] = 7.5
    other["health"].append({"check": "own gradient", "row": None, "verdict": "fail", "text": ""})
    other["failures"].append({"case": "phantom_0", "row": "bias", "reason": ""})
    for result in other["results"]:
        result["organs"].pop("spine")
    text = " ".join(differences(example, other))
    for part in (
        "monai_adversarial 9.9 there",
        "7.5 mm there",
        "Checks failed there, so that its figures are not to be believed: own gradient.",
        "1 attacks on single cases failed there",
        "Not the same organs are scored: spine.",
    ):
        assert part in text


def test_rows_of_one_name_with_fewer_steps_are_another_test(example):
    first, other = (copy.deepcopy(example) for _ in range(2))
    for one, steps in ((first, 10), (other, 1)):
        next(row for row in one["plan"]["rows"] if row["name"] == "pgd_8")["attack"] = f"PGD(8, steps={steps})"
    assert any("Auto-PGD, 8 HU" in sentence for sentence in differences(first, other))
    assert cells(side_by_side([first, other]), "pgd_8")[1] is None


def test_a_summary_that_was_changed_after_it_was_written_is_refused(example, tmp_path):
    written = write_report(example, tmp_path, images=False)["audit.json"]
    found = json.loads(written.read_text(encoding="utf-8"))
    check_summary(found)
    found["results"][0]["mean"]["clean"]["dice"]["mean"] = 0.99
    with pytest.raises(ValueError, match="was changed after it was written"):
        check_summary(found)
