# SPDX-License-Identifier: Apache-2.0
"""The page of examples is made of the JSON files beside it, and of nothing else."""

from __future__ import annotations

import copy
import json
import re

import pytest

from benchmarks.audit_examples import DOCS, EXAMPLES, FOLDER, condensed, load, page

NAMES = sorted(file.stem for file in FOLDER.glob("*.json"))


def test_the_page_is_what_its_files_say() -> None:
    assert (DOCS / "audit_examples.md").read_text(encoding="utf-8") == page(load())


def test_another_figure_makes_another_page() -> None:
    found = load()
    changed = copy.deepcopy(found)
    entry = next(one for one in changed[NAMES[0]]["results"] if one["dice"].get("adversarial"))
    entry["dice"]["adversarial"]["mean"] += 0.01
    assert page(changed) != page(found)


def test_each_file_is_of_an_example_that_can_be_run_again() -> None:
    assert NAMES and set(NAMES) <= {example.name for example in EXAMPLES}


@pytest.mark.parametrize("name", NAMES)
def test_files_are_small_and_hold_no_path(name: str) -> None:
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert len(text) < 30_000
    assert not re.search(r"/(tmp|home|root|work|Users)/|127\.0\.0\.1", text)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_failed_and_each_attack_stands_beside_chance(name: str) -> None:
    found = load()[name]
    assert found["failures"] == []
    attacked = [entry for entry in found["results"] if "adversarial" in entry["dice"]]
    assert attacked and all("random" in entry["dice"] for entry in attacked)


def test_a_network_answers_over_http_as_its_file_does() -> None:
    found = load()
    if not {"onnx", "served"} <= set(found):
        pytest.skip("onnx and served are not both among the examples")
    file, served = (
        [(entry["dice"], entry["cost"]["forwards"]) for entry in found[name]["results"]] for name in ("onnx", "served")
    )
    assert file == served


def test_a_summary_is_condensed_without_cases_and_pictures() -> None:
    # Rounded to four digits it would be 0.7355, and 0.736 on the page where the report says 0.735.
    dice = {"mean": 0.735462, "low": 0.4, "high": 0.6}
    summary = {
        "target": {"name": "a", "kind": "ONNX", "gradients": False, "classes": ["x"], "hashes": {}, "facts": []},
        "plan": {"rows": [{"name": "clean", "title": "Clean images", "budget": None}]},
        "data": {"cases": 1, "with_label": 1, "kind": "", "spacing_mm": [1.0], "notes": []},
        "results": [
            {
                **{"row": "clean", "reference": "label", "n": 1, "worst_case": None},
                "mean": {"clean": {"dice": dice}},
                "cost": {"forwards": 1, "backwards": 0, "seconds": 0.123},
            }
        ],
        "cases": [{"files": {"panel": "a.png"}}],
        "volumes": [{"file": "a.nii.gz"}],
        "health": [{"check": "x", "verdict": "pass", "text": ""}, {"check": "y", "verdict": "warn", "text": "w"}],
        **{"failures": [], "seconds": 1.0, "versions": {}},
    }
    found = condensed(summary, EXAMPLES[0])
    assert json.loads(json.dumps(found)) == found
    assert "a.png" not in str(found) and "a.nii.gz" not in str(found)
    assert found["results"][0]["dice"]["clean"] == dice and [one["check"] for one in found["health"]] == ["y"]
