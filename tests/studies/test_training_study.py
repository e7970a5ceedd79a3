# SPDX-License-Identifier: Apache-2.0
"""The table of trainings: real trainings through the command line, resumed, and what it says when one fails."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import Dataset
from monai.transforms import (
    Compose,
    DivisiblePadd,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    MapLabelValued,
    ScaleIntensityd,
)

from monai_adversarial.attacks import FGSM, PGD
from monai_adversarial.data import image_label_pairs
from monai_adversarial.studies import StudyError, TrainingStudy
from monai_adversarial.studies.reports.tables import read_rows
from monai_adversarial.studies.reports.training_report import TrainingReport
from tests.hippocampus import BUNDLE, CASES, write_invented_scans

TRAIN = "configs/train.yaml"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_invented_scans(tmp_path_factory.mktemp("scans"))


def study(scans: Path, folder: Path, **options: Any) -> TrainingStudy:
    keys = ["image", "label"]
    transform = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            ScaleIntensityd("image"),
            EnsureTyped(keys, dtype=[torch.float32, torch.uint8]),
            DivisiblePadd(keys, 4),
        ]
    )
    arguments: dict[str, Any] = {
        "trainings": {"clean": [TRAIN], "dual": [TRAIN, "configs/dual_normalization.yaml"]},
        "dataset": Dataset(image_label_pairs(scans)[:2], transform),
        "attacks": {"FGSM": FGSM(0.05), "ensemble": [PGD(0.05, steps=2), PGD(0.05, steps=2, objective="margin")]},
        "bundle_root": BUNDLE,
        "output_dir": folder,
        "class_names": ["background", "one", "two"],
        "seeds": [0],
        "overrides": {
            "dataset_dir": str(scans),
            "cases": CASES,
            "max_epochs": 1,
            "epoch_length": 1,
            "batch_size": 1,
            "roi_size": [16, 16, 16],
        },
        "progress": False,
        **options,
    }
    return TrainingStudy(**arguments)


def test_trainings_and_cases_are_computed_once(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = study(scans, tmp_path).run()["rows"]
    assert [row["training"] for row in rows] == ["clean", "dual, clean branch", "dual, adversarial branch"]
    assert all(row["cases"] == 2 for row in rows)
    table = read_rows(tmp_path / "training.csv")
    assert [row["training"] for row in table] == [row["training"] for row in rows]
    for row in read_rows(tmp_path / "training_cases.csv"):
        if row["organ"] == "mean":
            assert row["worst"] == min(row["clean"], row["FGSM"], row["ensemble"])
    assert (tmp_path / "training.png").read_bytes()[:4] == b"\x89PNG"
    assert "| dual, adversarial branch |" in (tmp_path / "training.md").read_text()

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(subprocess, "run", never)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*.json")}
    assert len(stamps) == 12  # 3 networks x 2 cases x 2 attacks
    assert study(scans, tmp_path).run()["rows"] == rows
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "records").rglob("*.json")}
    # One attack changed: the networks stay, and so does what the other attacks found.
    attacks = {"FGSM": FGSM(0.2), "ensemble": [PGD(0.05, steps=2), PGD(0.05, steps=2, objective="margin")]}
    changed = study(scans, tmp_path, attacks=attacks, trainings={"clean": [TRAIN]})
    attacked: list[str] = []
    original = TrainingStudy.compute
    monkeypatch.setattr(TrainingStudy, "compute", lambda s, c, *a: (attacked.append(c.attack), original(s, c, *a))[1])
    again = changed.run()["rows"]
    assert attacked == ["FGSM", "FGSM"]  # on two cases
    assert again[0]["clean"] == rows[0]["clean"] and again[0]["FGSM"] != rows[0]["FGSM"]
    assert again[0]["ensemble"] == rows[0]["ensemble"]
    # What belongs to other attacks or weights is not in the table.
    assert [row["training"] for row in study(scans, tmp_path).run("dual")["rows"]] == [
        "dual, clean branch",
        "dual, adversarial branch",
    ]
    # Another seed: a new training.
    with pytest.raises(StudyError, match="trained again"):
        study(scans, tmp_path, seeds=[1]).run()


def test_classes_that_no_label_holds_are_not_scored(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = study(scans, tmp_path)
    made.dataset.transform = Compose([made.dataset.transform, MapLabelValued("label", [2], [0])])
    made.forget()
    assert made.classes == {1: "one"}
    assert "scored classes: one; not labeled in this data set: two" in capsys.readouterr().out


def test_a_training_that_fails_names_its_log_and_leaves_no_weights(scans: Path, tmp_path: Path) -> None:
    broken = study(scans, tmp_path, trainings={"clean": [TRAIN]}, overrides={"dataset_dir": str(tmp_path / "no")})
    with pytest.raises(RuntimeError, match=r"training 'clean' with seed 0 failed .*: see .*clean_seed0\.log"):
        broken.run()
    assert not list((tmp_path / "weights").iterdir())


def test_a_training_or_a_case_that_fails_does_not_stop_the_others(scans: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("network_def: {_target_: monai.networks.nets.NoSuchNet}\n")
    trainings = {"broken": [TRAIN, str(broken)], "clean": [TRAIN]}
    made = study(scans, tmp_path, trainings=trainings, attacks={"FGSM": FGSM(0.05)})
    with pytest.raises(StudyError, match=r"2 of 4 cells failed, the tables cover.*training 'broken' with seed 0"):
        made.run()
    assert [row["training"] for row in read_rows(tmp_path / "training.csv")] == ["clean"]
    assert read_rows(tmp_path / "training.csv")[0]["cases"] == 2
    again = study(scans, tmp_path, trainings={"clean": [TRAIN]}, attacks={"FGSM": FGSM(0.1)})
    label = Path(made.dataset.data[1]["label"])
    hidden = label.rename(label.with_suffix(".hidden"))
    try:
        with pytest.raises(StudyError, match="1 of 2 cells failed.*case_001 FGSM"):
            again.run()
    finally:
        hidden.rename(label)
    assert read_rows(tmp_path / "training.csv")[0]["cases"] == 1
    assert again.run()["rows"][0]["cases"] == 2


def test_bad_arguments_are_one_sentence(scans: Path, tmp_path: Path) -> None:
    for options, words in (
        ({"trainings": {}}, "trainings must map at least one name to config files"),
        ({"trainings": {"clean": ["configs/no.yaml"]}}, "names a config file that is missing"),
        ({"attacks": {"FGSM": "fgsm"}}, r"attacks\['FGSM'\] must be an Attack or several"),
        ({"worst_of": ["Square"]}, "worst_of names 'Square'"),
        ({"seeds": [-1]}, "seeds must be an integer >= 0"),
    ):
        with pytest.raises((TypeError, ValueError, FileNotFoundError), match=words):
            study(scans, tmp_path, **options)
    with pytest.raises(ValueError, match="there is no training 'magic'"):
        study(scans, tmp_path).run("magic")


def record(training: str, seed: int, case: str, value: float | None) -> dict[str, Any]:
    mean = {"clean": 0.9, "FGSM": value, "worst": value}
    return {"training": training, "seed": seed, "case": case, "mean": mean, "dice": {"clean": {}}}


def test_intervals_are_over_patients_and_not_over_seeds() -> None:
    found = [record("pgd", seed, f"case_{i}", 0.2 * i + 0.1 * seed) for seed in (0, 1) for i in range(4)]
    row = TrainingReport(found, ["FGSM"], ["FGSM"]).rows()[0]
    assert row["cases"] == 4 and row["seeds"] == "0 1"
    assert row["FGSM"] == pytest.approx(0.35)
    assert row["FGSM_by_seed"] == "0.300 0.400"
    assert row["FGSM_low"] < 0.35 < row["FGSM_high"]
    undefined = TrainingReport([record("pgd", 0, "case_0", None)], ["FGSM"], ["FGSM"]).rows()[0]
    assert undefined["FGSM"] == ""
