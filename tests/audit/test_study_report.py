# SPDX-License-Identifier: Apache-2.0
"""The audit's page over an attack study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.data import Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

from monai_adversarial.attacks import PGD, ElasticAttack
from monai_adversarial.audit import run_and_report
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies import AttackStudy, StudyError
from tests.audit.pipeline import NAMES, Threshold, write_cases


def _study(tmp_path: Path) -> AttackStudy:
    data = write_cases(tmp_path / "data", 2)
    keys = ["image", "label"]
    dataset = Dataset(data, Compose([LoadImaged(keys), EnsureChannelFirstd(keys)]))
    model = AttackedModel(Threshold(), intensity={"a_min": -160, "a_max": 340}, image_units="HU", class_names=NAMES)
    attacks = {"pgd": PGD(40, units="HU", steps=3), "elastic": ElasticAttack(4.0, steps=2)}
    return AttackStudy(model, dataset, attacks, tmp_path / "out", progress=False)


def test_the_page_says_what_the_study_found(tmp_path: Path) -> None:
    found = run_and_report(_study(tmp_path), "Threshold under attack", "phantoms")
    summary = json.loads((tmp_path / "out" / "report" / "audit.json").read_text(encoding="utf-8"))
    entries = {entry["row"]: entry for entry in summary["results"]}
    for attack in ("pgd", "elastic"):
        mean = entries[attack]["mean"]["adversarial"]["dice"]["mean"]
        assert mean == pytest.approx(found["attacks"][attack]["adversarial_dice"]["mean"])
    organ = entries["pgd"]["organs"]["liver"]
    assert organ["volume_change_ml"]["n"] == 2 and organ["volume_change_ml"]["mean"] != 0
    page = (tmp_path / "out" / "report" / "report.html").read_text(encoding="utf-8")
    assert "Threshold under attack" in page and "40 HU" in page and page.count("<img") >= 2
    assert "patient_" not in page


def test_failures_are_on_the_page(tmp_path: Path) -> None:
    study = _study(tmp_path)
    Path(study.cases[1]["image"]).write_bytes(b"damaged")
    with pytest.raises(StudyError):
        run_and_report(study)
    summary = json.loads((tmp_path / "out" / "report" / "audit.json").read_text(encoding="utf-8"))
    assert {one["case"] for one in summary["failures"]} == {study.cases[1]["case_id"]}
    assert "patient_" not in json.dumps(summary["failures"])
