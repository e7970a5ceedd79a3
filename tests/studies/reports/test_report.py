# SPDX-License-Identifier: Apache-2.0
"""Tables over records."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from monai_adversarial.studies.reports.report import AttackReport


def record(
    case: str,
    clean: float,
    adversarial: float | None,
    jacobian: float = 0.5,
    largest: float = 8.0,
    reference: str = "label",
    norm: str | None = None,
) -> dict[str, Any]:
    def organ(dice: float | None, distance: float | None = 2.0) -> dict[str, Any]:
        return {"dice": dice, "hd95_mm": distance, "reference_voxels": 5, "predicted_voxels": 5}

    def mean(dice: float | None, missed: tuple[str, ...] = ()) -> dict[str, Any]:
        return {"dice": dice, "hd95_mm": 2.0, "missed": list(missed), "invented": []}

    return {
        "case": case,
        "attack": "pgd",
        "reference": reference,
        "geometric": False,
        "configuration": {"type": "PGD"},
        "scores": {
            "clean": {"liver": organ(clean)},
            "random": {"liver": organ(clean)},
            "adversarial": {"liver": organ(adversarial, None)},
        },
        "mean": {"clean": mean(clean), "random": mean(clean), "adversarial": mean(adversarial, ("liver",))},
        "visibility": {"ssim": 0.99, "psnr_db": None, "largest_change_hu": largest, "rms_change_hu": 6.0},
        "measurements": {
            "largest": {
                "value": largest,
                "units": "HU",
                "limit": 8.0,
                "tolerance": 0.5,
                "bound": "upper",
                "norm": norm,
            },
            "minimum_jacobian": {
                "value": jacobian,
                "units": "",
                "limit": 0.1,
                "tolerance": 0.0,
                "bound": "lower",
                "norm": None,
            },
        },
        "success_definition": "mean organ Dice below 50% of the clean image's",
        "facts": [],
        "scored_classes": ["liver"],
        "unlabeled_classes": [],
        "success": adversarial is not None and adversarial < 0.5,
        "zero_gradient_fraction": 0.25,
        "cost": {"forwards": 22, "backwards": 20, "queries": 2, "attack_seconds": 3.0, "total_seconds": 4.0},
    }


def test_the_summary_is_the_mean_over_cases_with_the_worst_measurements(tmp_path: Path) -> None:
    report = AttackReport([record("a", 0.9, 0.2, 0.5, 7.0), record("b", 0.8, 0.6, 0.3, 8.0)])
    found = report.write(tmp_path)["attacks"]["pgd"]
    assert found["clean_dice"]["mean"] == pytest.approx(0.85) and found["adversarial_dice"]["mean"] == pytest.approx(
        0.4
    )
    assert found["adversarial_dice"]["low"] == pytest.approx(0.2) and found["adversarial_dice"]["n"] == 2
    assert found["measurements"]["largest"]["worst"] == 8.0
    assert found["measurements"]["minimum_jacobian"]["worst"] == 0.3
    assert found["success_rate"] == 0.5 and found["missed_organs"] == 2
    assert found["psnr_db"] == {"n": 0, "mean": None, "low": None, "high": None}
    assert found["cost"]["forwards"] == 44
    assert json.loads((tmp_path / "summary.json").read_text())["attacks"]["pgd"] == found
    with open(tmp_path / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["organ"]) for row in rows] == [
        ("a", "liver"),
        ("a", "mean"),
        ("b", "liver"),
        ("b", "mean"),
    ]
    assert rows[0]["adversarial_hd95_mm"] == "" and rows[1]["missed_organs"] == "liver" and rows[1]["psnr_db"] == ""
    assert float(rows[3]["minimum_jacobian"]) == 0.3 and rows[2]["minimum_jacobian"] == ""


def test_the_terminal_table_is_aligned_and_has_no_interval_for_one_case() -> None:
    two = AttackReport([record("a", 0.9, 0.2), record("b", 0.8, 0.6)]).table().splitlines()
    assert two[2].split()[:3] == ["pgd", "2", "0.850"] and "[0.200, 0.600]" in two[2]
    assert two[0].index("random control") == two[2].index("0.850", 25)
    text = AttackReport([record("a", 0.9, 0.2, largest=8.25)]).table()
    assert "largest 8.25 HU (at most 8, rounding of the file 0.5); minimum jacobian 0.5 (at least 0.1)" in text
    one = AttackReport([record("a", 0.9, 0.2)]).table().splitlines()[2]
    assert "[" not in one and "0.200" in one


def test_scores_that_are_not_defined_are_left_out() -> None:
    found = AttackReport([record("a", 0.9, None), record("b", 0.8, 0.6)]).summary()["attacks"]["pgd"]
    assert found["adversarial_dice"]["n"] == 1 and found["adversarial_dice"]["mean"] == 0.6


def test_cases_with_and_without_a_label_are_never_averaged_together(tmp_path: Path) -> None:
    records = [record("a", 0.9, 0.2), record("b", 1.0, 0.8, reference="clean prediction"), record("c", 0.7, 0.4)]
    report = AttackReport(records)
    found = report.write(tmp_path)
    assert found["attacks"]["pgd"]["cases"] == 2
    assert found["attacks"]["pgd"]["adversarial_dice"]["mean"] == pytest.approx(0.3)
    assert found["attacks"]["pgd"]["success_rate"] == 1.0
    unlabelled = found["against_clean_prediction"]["pgd"]
    assert unlabelled["cases"] == 1 and unlabelled["adversarial_dice"]["mean"] == 0.8
    assert unlabelled["success_rate"] == 0.0
    lines = report.table().splitlines()
    heading = lines.index("no label, against the clean prediction:")
    assert lines[heading - 1].split()[:2] == ["pgd", "2"] and lines[heading + 1].split()[:2] == ["pgd", "1"]
    assert any("in rows of their own" in line for line in lines)
    only = AttackReport([records[1]]).summary()
    assert only["attacks"] == {} and only["against_clean_prediction"]["pgd"]["cases"] == 1


def test_success_the_norm_and_what_failed_are_said() -> None:
    text = AttackReport(
        [record("a", 0.9, 0.2, norm="euclidean")], failed=[{"case": "b", "attack": "pgd", "reason": "NaN"}]
    ).table()
    assert "Success: mean organ Dice below 50% of the clean image's; a share of the cases." in text
    assert "largest 8 HU in the euclidean norm (at most 8)" in text
    assert "minimum jacobian 0.5 (at least 0.1)" in text
    assert "Failed and in no number above: b pgd." in text
