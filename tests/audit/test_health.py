# SPDX-License-Identifier: Apache-2.0
"""Health checks: each flags the evaluation that it is about, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import Compose, Lambdad

from monai_adversarial.audit.facts import OWN_GRADIENT
from monai_adversarial.audit.first_case import check_first_case
from monai_adversarial.audit.health import health_checks
from monai_adversarial.audit.run_checks import run_checks
from monai_adversarial.utils.hashing import fingerprint
from tests.audit.pipeline import Threshold, parts, target, write_cases

ROWS: list[dict[str, Any]] = [
    {"name": "clean", "title": "Clean", "family": "clean", "knowledge": "none", "series": None, "budget": None},
    *(
        {
            "name": f"pgd_{epsilon}",
            "title": f"PGD, {epsilon} HU",
            "family": "gradient",
            "knowledge": "white box",
            "series": "pgd",
            "budget": {"value": epsilon, "units": "HU"},
        }
        for epsilon in (2, 8)
    ),
    {
        "name": "square",
        "title": "Square",
        "family": "queries",
        "knowledge": "queries",
        "series": None,
        "budget": {"value": 8, "units": "HU"},
    },
]


def _record(row: str, adversarial: float | None = None, **changes: Any) -> dict[str, Any]:
    organ = {"predicted_voxels": 10, "reference_voxels": 10}
    mean = {"clean": {"dice": 0.9}}
    if adversarial is not None:
        mean |= {"random": {"dice": 0.89}, "adversarial": {"dice": adversarial}}
    return {
        "attack": row,
        "case": "case_000",
        "reference": "label",
        "mean": mean,
        "scores": {"clean": {"liver": organ}},
        "zero_gradient_fraction": 0.1,
        "changed_share": 0.5,
        "success": None if adversarial is None else adversarial < 0.45,
        **changes,
    }


def _records(**changed: dict[str, Any]) -> list[dict[str, Any]]:
    dice = {"clean": None, "pgd_2": 0.6, "pgd_8": 0.2, "square": 0.5}
    return [_record(row, **{"adversarial": value, **changed.get(row, {})}) for row, value in dice.items()]


def _flagged(records: list[dict[str, Any]]) -> set[tuple[str, str | None, str]]:
    return {(c["check"], c["row"], c["verdict"]) for c in health_checks(records, ROWS) if c["verdict"] != "pass"}


def test_a_sound_evaluation_passes_every_check() -> None:
    checks = health_checks(_records(), ROWS)
    assert _flagged(_records()) == set()
    assert {check["check"] for check in checks} == {
        *("clean accuracy", "zero gradients", "voxels that change", "stronger than chance"),
        *("white box at least as strong", "falls with the budget"),
    }


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"pgd_8": {"adversarial": 0.9}}, ("stronger than chance", "pgd_8", "warn")),
        ({"pgd_8": {"adversarial": 0.95}}, ("stronger than chance", "pgd_8", "fail")),
        ({"pgd_8": {"zero_gradient_fraction": 0.97}}, ("zero gradients", "pgd_8", "warn")),
        ({"pgd_8": {"changed_share": 0.01}}, ("voxels that change", "pgd_8", "warn")),
        ({"square": {"adversarial": 0.1}}, ("white box at least as strong", "square", "fail")),
        ({"pgd_2": {"adversarial": 0.1}}, ("falls with the budget", "pgd_8", "warn")),
        ({"clean": {"mean": {"clean": {"dice": 0.2}}}}, ("clean accuracy", "clean", "warn")),
        ({"clean": {"mean": {"clean": {"dice": 0.16}}}}, ("clean accuracy", None, "fail")),
        ({"clean": {"mean": {"clean": {"dice": None}}}}, ("clean accuracy", None, "fail")),
    ],
)
def test_each_flaw_is_flagged(changes: dict[str, Any], flag: tuple[str, str, str]) -> None:
    assert flag in _flagged(_records(**changes))


def test_a_network_that_finds_nothing_fails() -> None:
    empty = {"clean": {"liver": {"predicted_voxels": 0, "reference_voxels": 10}}}
    assert ("empty prediction", "clean", "fail") in _flagged(_records(clean={"scores": empty}))


@pytest.mark.parametrize(("rejected", "verdict"), [(1, "pass"), (4, "warn")])
def test_a_detector_that_rejects_clean_images_is_named(rejected: int, verdict: str) -> None:
    records = [
        _record(
            "pgd_8",
            0.1,
            case=f"case_{case}",
            detection={
                "name": "Entropy",
                "false_positive_rate": 0.2,
                "calibration_cases": 4,
                "clean": {"accepted": case >= rejected},
            },
        )
        for case in range(4)
    ]
    (check,) = [one for one in health_checks(records, ROWS) if one["check"] == "clean images accepted"]
    assert check["verdict"] == verdict and check["row"] == "pgd_8"
    assert f"Entropy rejects {rejected} of 4 clean images, asked for at most 20%" in check["text"]


def test_one_scan_in_two_files_is_one_patient() -> None:
    def record(case: str, file: str, voxels: str) -> dict[str, Any]:
        return {**_record("clean"), "case": case, "hashes": {"input": {"image": file}, "voxels": voxels}}

    three = [record("a", "1", "x"), record("b", "2", "x"), record("c", "3", "y")]
    found = [one for one in run_checks(three, ROWS) if one["check"] == "different cases"]
    assert len(found) == 1 and "a = b" in found[0]["text"] and "c" not in found[0]["text"].split("(")[1].split(")")[0]
    assert not [one for one in run_checks(three[1:], ROWS) if one["check"] == "different cases"]


def test_a_gradient_that_is_not_that_of_the_network_is_a_failure() -> None:
    facts = [{"what": OWN_GRADIENT, "value": "no: the gradient is not that of the network: ..."}]
    assert [(one["check"], one["verdict"]) for one in run_checks([], [], facts=facts)] == [(OWN_GRADIENT, "fail")]
    assert run_checks([], []) == []


def test_the_pipeline_around_the_network_decides_what_is_computed_again() -> None:
    def mark(**changes: Any) -> str:
        return fingerprint(target(**changes).settings())

    shifted = Compose([*parts().postprocessing.transforms, Lambdad("pred", lambda image: image)])
    assert mark() == mark() != mark(postprocessing=shifted)


def test_a_network_that_is_mostly_detached_fails_the_audit(tmp_path: Path) -> None:
    class Detached(Threshold):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image.detach()) + 0.02 * image

    (case,) = write_cases(tmp_path / "data", 1)
    found = {fact.what: str(fact.value) for fact in check_first_case(target(Detached()), case)}
    assert found[OWN_GRADIENT].startswith("no: the gradient is not that of the network")
    assert OWN_GRADIENT not in {fact.what for fact in check_first_case(target(), case)}
