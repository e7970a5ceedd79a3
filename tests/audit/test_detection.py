# SPDX-License-Identifier: Apache-2.0
"""A detector in a plan: unaware and adaptive attacker side by side, on cases that the detector has not seen."""

from __future__ import annotations

import copy
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from monai_adversarial.audit import audit, load_plan
from monai_adversarial.audit.detection import summarize_detection
from tests.audit.pipeline import PLAN, target, write_cases

pytest.importorskip("sklearn")
DETECTOR: dict[str, Any] = {
    "component": {"_target_": "monai_adversarial.detection.FrequencyProfile", "bands": 3},
    "fit_cases": 5,
    "calibration_cases": 4,
    "false_positive_rate": 0.2,
    "weights": [1.0],
}


def plan(**changes: Any) -> dict[str, Any]:
    row = copy.deepcopy(PLAN["rows"]["pgd"])
    row |= {"over": {"epsilon": {"HU": [60]}}, "detector": {**DETECTOR, **changes}}
    return {"name": "detected", "rows": {"detected": row}}


def test_the_report_has_both_attackers(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 10)
    summary = audit(target(), cases, plan(), tmp_path / "out", rows="detected", pictures=False, progress=False)
    clean, row = summary["results"]
    assert clean["n"] == 10 and row["n"] == 1  # nine cases belong to the detector
    found = row["detection"]
    assert found["adaptive_adversarial_risk"] >= found["unaware_adversarial_risk"]
    (case,) = [one for one in summary["cases"] if one["row"] == "detected_60"]
    assert case["case"] == "case_009"
    one = case["detection"]
    assert one["unaware"]["wrong"] and one["adaptive"]["wrong"]
    assert one["adaptive"]["score"] <= one["unaware"]["score"] and one["adaptive"]["attacker"]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Attacker who does not know it" in page and "Attacker who knows it" in page
    assert not [check for check in summary["health"] if check["check"] == "all cases"]
    assert "fitted to 5 and calibrated on 4 other clean cases" in page


def test_too_few_cases_leave_the_row_out_in_a_sentence() -> None:
    found = load_plan(plan(), cases=9)
    assert [row.name for row in found.rows] == ["clean"]
    (sentence,) = found.left_out
    assert sentence.endswith(
        "the detector takes the first 5 cases to fit to and the next 4 to calibrate on, and needs at least 10 cases, "
        "got 9."
    )
    assert [row.name for row in load_plan(plan(), cases=10).rows] == ["clean", "detected_60"]
    text = (resources.files("monai_adversarial.audit") / "plans" / "thorough.yaml").read_text(encoding="utf-8")
    shipped = yaml.safe_load(text)
    shipped["rows"] = {name: row for name, row in shipped["rows"].items() if "detector" in row}
    assert len(load_plan(shipped, cases=32).rows) == 3
    left = load_plan(shipped, cases=31).left_out
    assert sum("needs at least 32 cases, got 31" in sentence for sentence in left) == 2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"calibration_cases": 3}, "calibration_cases must be"),
        ({"component": {"_target_": "monai_adversarial.attacks.PGD"}}, "must be a Detector"),
        ({"component": "gaussian"}, "must be a mapping with a component"),
        ({"cases": 5}, "has no key 'cases'"),
    ],
)
def test_what_is_told_wrongly_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        load_plan(plan(**changes))


def test_one_attacker_alone_is_not_summarized() -> None:
    seen = {"score": 1.0, "accepted": True, "wrong": True}
    record = {"detection": {"name": "x", "false_positive_rate": 0.05, "clean": seen, "unaware": seen}}
    with pytest.raises(KeyError, match="adaptive"):
        summarize_detection([record])
    assert summarize_detection([{}]) is None
