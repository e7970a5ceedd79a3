# SPDX-License-Identifier: Apache-2.0
"""A row is called robust only where everything that speaks against it was looked at."""

from __future__ import annotations

import copy
import math

import pytest

from monai_adversarial.audit.report.findings import FAILED, HELD, NOT_SETTLED, WEAKENED, findings_of, successes_of
from tests.audit.report.example import example_summary


@pytest.fixture(scope="module")
def example():
    return example_summary()


def verdicts(summary, reference="label"):
    return {f.row: f.verdict for f in findings_of(summary) if f.reference == reference}


def result(summary, row, reference="label"):
    return next(r for r in summary["results"] if (r["row"], r["reference"]) == (row, reference))


def test_verdicts_of_the_example(example):
    expected = {
        "noise": HELD,
        "motion": WEAKENED,
        "pgd_2": WEAKENED,
        "pgd_4": FAILED,
        "pgd_8": FAILED,
        "bias": WEAKENED,
    }
    assert verdicts(example) == {**expected, "elastic": NOT_SETTLED}


def test_references_have_findings_of_their_own(example):
    changed = copy.deepcopy(example)
    for case in changed["cases"]:
        case["success"] = case["success"] or (case["row"], case["reference"]) == ("noise", "clean prediction")
    assert verdicts(changed)["noise"] == HELD
    assert verdicts(changed, "clean prediction")["noise"] == FAILED


@pytest.mark.parametrize("row", ["noise", None])
def test_a_failed_health_check_settles_nothing(example, row):
    changed = copy.deepcopy(example)
    changed["health"].append({"check": "gradients", "row": row, "verdict": "fail", "text": "All gradients are zero."})
    assert verdicts(changed)["noise"] == NOT_SETTLED
    assert verdicts(changed)["pgd_8"] == FAILED, "a success that was found is one"


@pytest.mark.parametrize("undefined", [None, math.nan])
def test_what_is_not_defined_did_not_hold(example, undefined):
    for path in ("success_rate", "adversarial", "clean"):
        changed = copy.deepcopy(example)
        if path == "success_rate":
            result(changed, "noise")[path] = undefined
            changed["cases"] = []
        else:
            result(changed, "noise")["mean"][path]["dice"]["mean"] = undefined
        assert verdicts(changed)["noise"] == NOT_SETTLED, path


def test_a_row_that_was_not_run_is_named(example):
    changed = copy.deepcopy(example)
    changed["results"] = [r for r in changed["results"] if r["row"] != "noise"]
    found = [f for f in findings_of(changed) if f.row == "noise"]
    assert [(f.verdict, f.why) for f in found] == [(NOT_SETTLED, "not run")] * 2


def test_one_success_among_many_cases_is_not_rounded_away(example):
    changed = copy.deepcopy(example) | {"cases": []}
    result(changed, "noise").update(n=1000, success_rate=0.0004)
    finding = next(f for f in findings_of(changed) if f.row == "noise")
    assert (finding.verdict, finding.successes) == (FAILED, 1)


def test_successes_are_counted_where_they_are_defined(example):
    changed = copy.deepcopy(example)
    first = next(c for c in changed["cases"] if (c["row"], c["reference"]) == ("noise", "label"))
    first["success"] = None
    finding = next(f for f in findings_of(changed) if f.row == "noise")
    assert (finding.verdict, finding.why) == (NOT_SETTLED, "success is not defined in 1 of 3 cases")
    assert successes_of(changed, result(changed, "noise")) == (0, 2)


def test_an_organ_that_is_gone_is_not_hidden_by_the_mean(example):
    changed = copy.deepcopy(example)
    result(changed, "noise")["organs"]["aorta"]["adversarial"]["dice"]["mean"] = 0.0
    finding = next(f for f in findings_of(changed) if f.row == "noise")
    assert finding.verdict == WEAKENED
    assert finding.organ is not None and finding.organ[0] == "aorta" and finding.organ[2] == 0.0


def test_a_warning_goes_with_its_row(example):
    assert {f.row for f in findings_of(example) if f.warned} == {"pgd_2"}
