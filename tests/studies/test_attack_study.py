# SPDX-License-Identifier: Apache-2.0
"""An attack study on small CT-like volumes, from the evaluator to files, scores and report."""

from __future__ import annotations

import csv
import errno
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.image
import nibabel
import numpy as np
import pytest
import torch
from monai.data import Dataset
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Flipd,
    LoadImaged,
    MapLabelValued,
    ScaleIntensityRanged,
)

import monai_adversarial.studies.attack_unit as unit_module
from monai_adversarial.attacks import (
    PGD,
    AdditiveNoise,
    Attack,
    BiasFieldAttack,
    Chain,
    ElasticAttack,
    ElasticDeformation,
)
from monai_adversarial.attacks.scored_run import ScoredRun
from monai_adversarial.data.saving import MARK, read_back
from monai_adversarial.metrics import mean_score, score_segmentation
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies import AttackStudy, SettingsError, StudyError, find_cases
from monai_adversarial.studies.displacement import displacement_in_mm
from tests.helpers import LinearNetwork

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (24, 20, 16)
SPACING = (2.0, 2.0, 3.0)
NAMES = ["background", "liver", "bone"]


class Threshold(torch.nn.Module):
    """Liver above 30 HU, bone above 200 HU, after a little smoothing: good on clean images, easy to attack."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = LinearNetwork((0.0, 0.10, 0.15), (0.0, -3.0, -13.0))
        self.smooth = torch.nn.AvgPool3d(3, stride=1, padding=1, count_include_pad=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.linear(self.smooth(image))


def write_case(folder: Path, name: str, seed: int, labelled: bool = True) -> None:
    generator = np.random.default_rng(seed)
    label = np.zeros(SHAPE, np.uint8)
    label[5:14, 5:14, 4:12], label[16:21, 6:15, 3:13] = 1, 2
    hu = np.choose(label, [2, 60, 400]) + generator.normal(0, 6, SHAPE)
    affine = np.diag([-SPACING[0], SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = 10.0 * seed
    for sub, array in (("images", hu.round().astype(np.int16)), ("labels", label)):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        if sub == "images" or labelled:
            nibabel.save(nibabel.Nifti1Image(array, affine), folder / sub / f"{name}.nii.gz")


def attacks() -> dict[str, Attack]:
    return {
        "pgd": PGD(epsilon=30.5, units="HU", steps=4),
        "bias_field": BiasFieldAttack(max_gain=0.3, domain="window", window=(-160.0, 240.0), steps=3),
        "elastic": ElasticAttack(3.0, steps=3),
    }


def make_study(data: Path, output: Path, chosen: dict[str, Attack] | None = None, **options: Any) -> AttackStudy:
    cases = find_cases(data, anonymize=False, unlabeled="keep")
    keys = ["image", "label"]
    load = Compose([LoadImaged(keys, allow_missing_keys=True), EnsureChannelFirstd(keys, allow_missing_keys=True)])
    inferer = SlidingWindowInferer((16, 16, 16), sw_batch_size=2, overlap=0.25)
    model = options.pop("model", None) or AttackedModel(Threshold(), inferer, image_units="HU")
    options = {"class_names": NAMES, "progress": False, **options}
    return AttackStudy(model, Dataset(cases, load), chosen or attacks(), output, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """Data, output and summary of one study: a labelled case, one without a label, three attacks."""
    root = tmp_path_factory.mktemp("study")
    for seed, name in enumerate(("first", "second")):
        write_case(root / "data", name, seed, labelled=name == "first")
    summary = make_study(root / "data", root / "out", save_predictions=True).run()
    return root / "data", root / "out", summary


def record_of(out: Path, attack: str, case: str) -> dict[str, Any]:
    return json.loads((out / attack / f"{case}.json").read_text())


@pytest.mark.parametrize("attack", ["pgd", "bias_field", "elastic"])
@pytest.mark.parametrize("case", ["first", "second"])
def test_the_saved_volume_is_in_the_space_of_the_input_and_in_budget(
    finished: tuple[Path, Path, dict[str, Any]], attack: str, case: str
) -> None:
    data, out, _ = finished
    before = nibabel.load(data / "images" / f"{case}.nii.gz")
    after = nibabel.load(out / attack / f"{case}_adversarial.nii.gz")
    assert after.shape == before.shape and after.get_data_dtype() == np.int16
    assert np.array_equal(after.affine, before.affine)
    assert bytes(after.header["descrip"]).startswith(MARK.encode())
    change = np.abs(np.asarray(after.dataobj, float) - np.asarray(before.dataobj, float))
    assert change.max() > 0
    measured = record_of(out, attack, case)["measurements"]
    limited = {name: m for name, m in measured.items() if m["limit"] is not None}
    assert limited
    if attack == "pgd":
        assert change.max() == 30.0  # 30.5 HU rounded toward the clean voxel
        assert measured["noise_linf"]["value"] == 30.0 and measured["noise_linf"]["limit"] == 30.5


def test_scores_are_those_of_the_files_on_disk(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    data, out, _ = finished
    inferer = SlidingWindowInferer((16, 16, 16), sw_batch_size=2, overlap=0.25)
    label = read_back(data / "labels" / "first.nii.gz")[0]
    for attack in ("pgd", "elastic"):
        image = read_back(out / attack / "first_adversarial.nii.gz")[None].as_tensor()
        with torch.no_grad():
            prediction = inferer(image, Threshold()).argmax(1)[0]
        assert torch.equal(
            read_back(out / attack / "first_adversarial_prediction.nii.gz")[0].as_tensor(), prediction.float()
        )
        record = record_of(out, attack, "first")
        key = "adversarial_original_label" if attack == "elastic" else "adversarial"
        expected = score_segmentation(prediction, label, SPACING, NAMES)
        assert record["scores"][key]["liver"]["dice"] == pytest.approx(expected["liver"]["dice"])
        assert record["mean"][key]["dice"] == pytest.approx(mean_score(expected)["dice"])
        if attack == "elastic":
            moved = read_back(out / attack / "first_adversarial_label.nii.gz")[0]
            assert not torch.equal(moved, label)
            assert record["scores"]["adversarial"] == score_segmentation(prediction, moved, SPACING, NAMES)


def test_the_attack_is_far_worse_than_its_random_control_and_geometry_has_both_labels(
    finished: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, out, summary = finished
    for section in ("attacks", "against_clean_prediction"):
        pgd = summary[section]["pgd"]
        assert pgd["clean_dice"]["n"] == 1 and pgd["clean_dice"]["mean"] > 0.75
        assert pgd["random_dice"]["mean"] > pgd["clean_dice"]["mean"] - 0.05
        assert pgd["adversarial_dice"]["mean"] < pgd["random_dice"]["mean"] - 0.1
        assert "adversarial_original_label_dice" not in pgd
        elastic = summary[section]["elastic"]
        assert elastic["geometric"] and elastic["adversarial_original_label_dice"]["n"] == 1
        measured = elastic["measurements"]
        assert any(m["units"] == "mm" and m["worst"] <= m["limit"] + 1e-3 for m in measured.values() if m["limit"])
        assert any("jacobian" in name for name in measured)


def test_a_case_without_a_label_is_scored_against_its_clean_prediction(
    finished: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, out, summary = finished
    record = record_of(out, "pgd", "second")
    assert record["reference"] == "clean prediction"
    assert record["mean"]["clean"]["dice"] == 1.0 and record["mean"]["adversarial"]["dice"] < 0.9
    assert record_of(out, "pgd", "first")["reference"] == "label"
    labelled, unlabelled = summary["attacks"]["pgd"], summary["against_clean_prediction"]["pgd"]
    assert (labelled["reference"], labelled["cases"]) == ("label", 1)
    assert labelled["clean_dice"]["mean"] == pytest.approx(record_of(out, "pgd", "first")["mean"]["clean"]["dice"])
    assert (unlabelled["reference"], unlabelled["cases"]) == ("clean prediction", 1)
    assert unlabelled["clean_dice"]["mean"] == 1.0
    text = (out / "summary.txt").read_text()
    assert "no label, against the clean prediction:" in text
    assert "Success: mean organ Dice below 0.5 times the clean Dice; a share of the cases." in text


def test_records_and_report_name_no_path_and_every_cost(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    data, out, _ = finished
    for attack in ("pgd", "bias_field", "elastic"):
        record = record_of(out, attack, "first")
        assert str(data) not in json.dumps(record) and str(out) not in json.dumps(record)
        assert record["cost"]["forwards"] >= record["cost"]["backwards"] > 0
        assert 0.0 <= record["zero_gradient_fraction"] <= 1.0
        assert 0.0 < record["visibility"]["ssim"] <= 1.0 and record["visibility"]["psnr_db"] > 0
        picture = matplotlib.image.imread(out / attack / "first.png")
        assert picture.shape[0] > 400 and picture.std() > 0.05
    assert str(data) not in (out / "summary.json").read_text()
    assert matplotlib.image.imread(out / "overview.png").std() > 0.05
    left = [path for path in out.rglob("*") if ".tmp." in path.name]
    assert not left


def test_the_table_has_one_row_per_case_attack_and_organ_and_their_mean(
    finished: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, out, _ = finished
    with open(out / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 3 * 3
    assert {row["organ"] for row in rows} == {"liver", "bone", "mean"}
    one = next(row for row in rows if (row["case"], row["attack"], row["organ"]) == ("first", "pgd", "mean"))
    record = record_of(out, "pgd", "first")
    assert float(one["adversarial_dice"]) == pytest.approx(record["mean"]["adversarial"]["dice"], abs=1e-5)
    assert float(one["noise_linf [HU]"]) == 30.0 and one["adversarial_original_label_dice"] == ""
    text = (out / "summary.txt").read_text()
    assert all(word in text for word in ("pgd", "bias_field", "elastic", "original label", "random control"))


def stamps(out: Path) -> dict[str, int]:
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in out.rglob("*_adversarial.nii.gz")}


def test_a_study_runs_only_what_is_missing_or_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("a", "b")):
        write_case(tmp_path / "data", name, seed)
    out = tmp_path / "out"

    def run(epsilon: float = 20.0, **options: Any) -> AttackStudy:
        chosen: dict[str, Attack] = {
            "pgd": PGD(epsilon=epsilon, units="HU", steps=2),
            "bias": BiasFieldAttack(max_gain=0.2, window=(-160.0, 240.0), steps=1),
        }
        made = make_study(tmp_path / "data", out, chosen, panels=False, **options)
        made.run()
        return made

    # Stopped by the user in the second unit: the first is kept whole, the second leaves no record.
    calls = []
    original = unit_module.Unit.run

    def interrupted(self: Any, folder: Path) -> dict[str, Any]:
        calls.append(self.cell.case)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, folder)

    monkeypatch.setattr(unit_module.Unit, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert sorted(path.name for path in out.rglob("*.json")) == ["a.json", "summary.json"]
    reported = json.loads((out / "summary.json").read_text())
    assert reported["cases"] == ["a"] and list(reported["attacks"]) == ["pgd"] and (out / "overview.png").exists()
    assert "start again to continue" in capsys.readouterr().err
    monkeypatch.setattr(unit_module.Unit, "run", original)

    run()
    assert "1 of 4 cells are done already, 3 to go" in capsys.readouterr().out
    first = stamps(out)
    assert len(first) == 4

    run(selected="bias")
    assert stamps(out) == first
    assert json.loads((out / "summary.json").read_text())["attacks"].keys() == {"pgd", "bias"}

    # Another budget concerns one attack; a changed image one case; a lost volume one unit.
    run(epsilon=21.0)
    second = stamps(out)
    assert {name for name in first if first[name] != second[name]} == {
        "pgd/a_adversarial.nii.gz",
        "pgd/b_adversarial.nii.gz",
    }
    write_case(tmp_path / "data", "b", 7)
    (out / "bias" / "a_adversarial.nii.gz").unlink()
    run(epsilon=21.0)
    third = stamps(out)
    assert {name for name in third if third[name] != second[name]} == {
        "pgd/b_adversarial.nii.gz", "bias/b_adversarial.nii.gz", "bias/a_adversarial.nii.gz"
    }  # fmt: skip


def test_the_network_and_the_attack_are_left_as_they_were(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    attack = PGD(epsilon=8, units="HU", steps=1)
    network = Threshold().train()
    made = make_study(
        tmp_path / "data",
        tmp_path / "out",
        {"pgd": attack},
        model=AttackedModel(network, image_units="HU"),
        panels=False,
    )
    before = dict(vars(attack))
    made.run()
    assert network.training and all(weight.requires_grad for weight in network.parameters())
    assert vars(attack) == before


def test_a_budget_that_the_saved_file_exceeds_is_a_failure_and_never_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed, name in enumerate(("a", "b")):
        write_case(tmp_path / "data", name, seed)

    def read(path: Path) -> Any:
        return read_back(path) + (2.0 if "a_adversarial" in str(path) else 0.0)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(unit_module, "read_back", read)
        with pytest.raises(StudyError, match="1 of 2 cells failed.*a pgd: .*above the budget of 8 HU"):
            make_study(tmp_path / "data", out, one_step(), panels=False).run()
    assert "above the budget of 8 HU" in record_of(out, "pgd", "a")["failed"]
    assert not (out / "pgd" / "a_adversarial.nii.gz").exists()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cases"] == ["b"] and summary["attacks"]["pgd"]["cases"] == 1
    assert [one["case"] for one in summary["failed"]] == ["a"]
    assert "Failed and in no number above: a pgd." in (out / "summary.txt").read_text()
    # It is tried again, and the other is not.
    stamp = stamps(out)
    done = make_study(tmp_path / "data", out, one_step(), panels=False).run()
    assert done["attacks"]["pgd"]["cases"] == 2 and done["failed"] == []
    assert stamps(out)["pgd/b_adversarial.nii.gz"] == stamp["pgd/b_adversarial.nii.gz"]


def one_step() -> dict[str, Attack]:
    return {"pgd": PGD(epsilon=8, units="HU", steps=1)}


def test_a_full_disk_stops_with_one_sentence_and_no_file_of_the_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(tmp_path / "data", "a", 0)

    def full(panel: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(unit_module, "save_panel", full)
    with pytest.raises(OSError, match="cannot write .*a.png: No space left"):
        make_study(tmp_path / "data", tmp_path / "out", one_step()).run()
    assert not list((tmp_path / "out" / "pgd").iterdir())


def nan_case(path: Path) -> None:
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj, np.float32)
    voxels[3, 3, 3] = np.nan
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)


BAD: dict[str, tuple[Any, str]] = {
    "no_nifti": (lambda path: path.write_bytes(b"nothing"), "cannot read .*b.nii.gz as NIfTI"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "cannot read .*b.nii.gz as NIfTI"),
    "nan": (nan_case, r"image must be finite, got 1 NaN or infinite voxels \(.*b.nii.gz\)"),
    "missing": (lambda path: path.unlink(), "there is no image file .*b.nii.gz"),
    "four_dimensions": (
        lambda path: nibabel.save(nibabel.Nifti1Image(np.zeros((*SHAPE, 2), np.int16), np.eye(4)), path),
        "must have the same shape, got",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_one_bad_case_is_recorded_with_its_file_and_the_others_go_on(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, message = BAD[kind]
    for seed, name in enumerate("abc"):
        write_case(tmp_path / "data", name, seed)
    out, broken = tmp_path / "out", tmp_path / "data" / "images" / "b.nii.gz"
    whole = broken.read_bytes()
    made = make_study(tmp_path / "data", out, one_step(), panels=False)
    damage(broken)
    with pytest.raises(StudyError, match=f"1 of 3 cells failed, the tables cover what is done: b pgd: .*{message}"):
        made.run()
    assert "1 of 3 cells failed; the next run tries them again" in capsys.readouterr().err
    failed = record_of(out, "pgd", "b")
    assert str(broken) in failed["failed"] and "scores" not in failed
    assert sorted(path.name for path in (out / "pgd").glob("*.nii.gz")) == [
        "a_adversarial.nii.gz",
        "c_adversarial.nii.gz",
    ]
    with open(out / "results.csv", newline="") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {"a", "c"}
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cases"] == ["a", "c"] and [one["case"] for one in summary["failed"]] == ["b"]
    # Names of files may name patients: reports do not hold them.
    assert str(tmp_path) not in (out / "summary.json").read_text() + (out / "summary.txt").read_text()
    # Mended, it alone is run.
    broken.write_bytes(whole)
    before = stamps(out)
    again = make_study(tmp_path / "data", out, one_step(), panels=False).run()
    assert again["cases"] == ["a", "b", "c"] and again["failed"] == []
    assert {name: stamps(out)[name] for name in before} == before


def test_a_case_that_fails_for_a_while_does_not_lose_its_result(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_case(tmp_path / "data", name, seed)
    image, away = tmp_path / "data" / "images" / "b.nii.gz", tmp_path / "b.nii.gz"
    out = tmp_path / "out"
    make_study(tmp_path / "data", out, one_step(), panels=False).run()
    before, made = stamps(out), make_study(tmp_path / "data", out, one_step(), panels=False)
    image.rename(away)
    with pytest.raises(StudyError, match="there is no image file"):
        made.run()
    assert json.loads((out / "summary.json").read_text())["cases"] == ["a"]
    away.rename(image)
    assert made.run()["cases"] == ["a", "b"] and stamps(out) == before


def test_float_files_are_attacked_in_their_own_values(tmp_path: Path) -> None:
    """Rounding to whole HU would be a change of its own in a file that holds fractions."""
    for seed, name in enumerate("ab"):
        write_case(tmp_path / "data", name, seed)
    path = tmp_path / "data" / "images" / "b.nii.gz"
    image = nibabel.load(path)
    voxels = np.asarray(image.dataobj, np.float32) + np.float32(0.25)
    voxels[:2] = -160.125  # just below the floor of the window, which a field must not change
    nibabel.save(nibabel.Nifti1Image(voxels, image.affine), path)
    model = AttackedModel(Threshold(), image_units="HU", round_to_integer=True)
    chosen = {
        "pgd": PGD(epsilon=8, units="HU", steps=2),
        "bias_field": BiasFieldAttack(0.3, window=(-160, 240), steps=2),
        "elastic": ElasticAttack(3.0, steps=1),
    }
    out = tmp_path / "out"
    make_study(tmp_path / "data", out, chosen, model=model, panels=False).run()
    for attack in chosen:
        saved = nibabel.load(out / attack / "b_adversarial.nii.gz")
        assert saved.get_data_dtype() == np.float32
        change = np.abs(np.asarray(saved.dataobj) - voxels)
        if attack == "bias_field":
            assert change[:2].max() == 0 and change.max() > 0
        for measured in record_of(out, attack, "b")["measurements"].values():
            assert measured["bound"] != "upper" or measured["value"] <= measured["limit"] * 1.0001 + 1
    assert np.asarray(nibabel.load(out / "pgd" / "a_adversarial.nii.gz").dataobj).dtype == np.int16


# dtype, slope, intercept, lowest and highest value of the image; most reach the end of what their type holds.
GRIDS: dict[str, tuple[type, float, float, float, float]] = {
    "uint8": (np.uint8, 1.0, 0.0, 0.0, 255.0),
    "int16_saturated": (np.int16, 1.0, 0.0, -1000.0, 32767.0),
    "uint16": (np.uint16, 1.0, 0.0, 0.0, 3000.0),
    "tenths": (np.int16, 0.1, 0.0, -1000.0, 3000.0),
    "slope_8": (np.int16, 8.0, -1024.0, -1024.0, 3072.0),
    "slope_3_uint8": (np.uint8, 3.0, -160.0, -160.0, 605.0),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_integer_files_get_values_that_they_hold_inside_budget_and_type(tmp_path: Path, kind: str) -> None:
    """Rounded once, to the file's own grid: the file holds what was scored, and needs no room for rounding."""
    dtype, slope, intercept, low, high = GRIDS[kind]
    write_case(tmp_path / "data", "a", 0)
    path = tmp_path / "data" / "images" / "a.nii.gz"
    hu = np.asarray(nibabel.load(path).dataobj, np.float64)
    hu[:3], hu[-2:], hu[3, 3:6], hu[3, 6:9] = low, high, low + slope, high - slope
    stored = np.clip(np.rint((hu - intercept) / slope), np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)
    image = nibabel.Nifti1Image(stored, nibabel.load(path).affine)
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, path)
    chosen = {
        "pgd": PGD(epsilon=20, units="HU", steps=3),
        "pgd_l2": Attack(AdditiveNoise(400.0, units="HU", norm="l2"), steps=3),
        "bias_field": BiasFieldAttack(0.3, domain="window", window=(-160, 240), steps=2),
        "elastic": ElasticAttack(3.0, steps=1),
    }
    model = AttackedModel(Threshold(), image_units="HU", round_to_integer=True)
    out = tmp_path / "out"
    make_study(tmp_path / "data", out, chosen, model=model, panels=False).run()
    before = np.asarray(nibabel.load(path).dataobj.get_unscaled(), np.int64)
    for attack in chosen:
        saved = nibabel.load(out / attack / "a_adversarial.nii.gz")
        assert saved.get_data_dtype() == dtype
        after = np.asarray(saved.dataobj.get_unscaled(), np.int64)
        assert not np.array_equal(after, before)
        limits = record_of(out, attack, "a")["measurements"]
        upper = [m for m in limits.values() if m["bound"] == "upper" and m["limit"]]
        assert upper and all(m["value"] <= m["limit"] * (1 + 1e-5) for m in upper), limits
        if attack == "pgd":
            assert np.abs(after - before).max() == int(20 / slope + 1e-6)
            assert limits["noise_linf"]["value"] == pytest.approx(int(20 / slope + 1e-6) * slope, abs=1e-3)
            at_the_end = np.isin(before, (np.iinfo(dtype).min, np.iinfo(dtype).max))
            assert (after[at_the_end] != before[at_the_end]).any() or not at_the_end.any()


def test_classes_that_no_label_holds_are_not_scored_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As LiTS and IRCADb label some organs: the network finds bone, rightly, where no label says so."""
    for seed, name in enumerate("abc"):
        write_case(tmp_path / "data", name, seed, labelled=name != "c")
    for path in (tmp_path / "data" / "labels").iterdir():
        label = nibabel.load(path)
        liver = np.asarray(label.dataobj) * (np.asarray(label.dataobj) == 1)
        nibabel.save(nibabel.Nifti1Image(liver.astype(np.uint8), label.affine), path)
    said = "scored classes: liver; not labeled in this data set: bone"
    summary = make_study(tmp_path / "data", tmp_path / "out", one_step()).run()
    assert said in capsys.readouterr().out
    record = record_of(tmp_path / "out", "pgd", "a")
    assert list(record["scores"]["clean"]) == record["scored_classes"] == ["liver"]
    assert record["unlabeled_classes"] == ["bone"] and said in record["facts"]
    assert record["mean"]["clean"]["dice"] == record["scores"]["clean"]["liver"]["dice"] > 0.6
    assert record["mean"]["adversarial"]["invented"] == []
    entry = summary["attacks"]["pgd"]
    assert entry["scored_classes"] == ["liver"] and entry["unlabeled_classes"] == ["bone"]
    text = (tmp_path / "out" / "summary.txt").read_text()
    assert "Scored classes: liver; not labeled in this data set: bone." in text
    # Without a label the reference is the prediction, which has both.
    alone = record_of(tmp_path / "out", "pgd", "c")
    assert alone["scored_classes"] == ["liver", "bone"] and alone["unlabeled_classes"] == []
    # What is told counts: an organ that no label holds and the network finds is 0.
    told = AttackedModel(Threshold(), image_units="HU", scored_classes=["liver", "bone"])
    make_study(tmp_path / "data", tmp_path / "told", one_step(), model=told).run()
    record = record_of(tmp_path / "told", "pgd", "a")
    assert record["scores"]["clean"]["bone"]["dice"] == 0.0 and record["unlabeled_classes"] == []


def test_labels_are_read_as_the_dataset_gives_them(tmp_path: Path) -> None:
    """A dataset may give its labels the network's class indices: what the files hold does not count then."""
    write_case(tmp_path / "data", "a", 0)
    path = tmp_path / "data" / "labels" / "a.nii.gz"
    label = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image((np.asarray(label.dataobj) * 7).astype(np.uint8), label.affine), path)
    made = make_study(tmp_path / "data", tmp_path / "out", one_step())
    with pytest.raises(SettingsError, match=r"the labels hold the values \[0, 7, 14\] and so none of the network's"):
        made.run()
    made = make_study(tmp_path / "data", tmp_path / "out", one_step())
    made.dataset.transform = Compose([made.dataset.transform, MapLabelValued("label", [7, 14], [1, 2])])
    made.run()
    assert record_of(tmp_path / "out", "pgd", "a")["scored_classes"] == ["liver", "bone"]


def test_images_of_several_files_are_refused_before_any_work(tmp_path: Path) -> None:
    for name in ("a_0000", "a_0001"):
        write_case(tmp_path / "data", name, 0)
    (tmp_path / "data" / "labels" / "a_0000.nii.gz").rename(tmp_path / "data" / "labels" / "a.nii.gz")
    (tmp_path / "data" / "labels" / "a_0001.nii.gz").unlink()
    for kind in ("images", "labels"):
        (tmp_path / "data" / kind).rename(tmp_path / "data" / f"{kind}Tr")
    with pytest.raises(SettingsError, match="1 of 1 cases have one file for each channel .a_0000.nii.gz, a_0001.nii"):
        make_study(tmp_path / "data", tmp_path / "out", one_step())
    assert not (tmp_path / "out").exists()


def test_an_image_that_was_turned_or_scaled_on_the_way_is_refused(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    made = make_study(tmp_path / "data", tmp_path / "out", one_step())
    load = made.dataset.transform
    for change in (Flipd("image", 0), ScaleIntensityRanged("image", -160, 240, 0, 1)):
        made.dataset.transform = Compose([load, change])
        with pytest.raises(StudyError, match="reaches the attack with other voxels than its file holds"):
            made.run()
    with pytest.raises(ValueError, match="image_units='network'"):
        make_study(tmp_path, tmp_path / "out", model=AttackedModel(Threshold(), image_units="network"))


def test_records_of_others_and_changed_ones_are_named_and_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate("ab"):
        write_case(tmp_path / "data", name, seed)
    out = tmp_path / "out"

    def run() -> dict[str, Any]:
        return make_study(tmp_path / "data", out, one_step(), panels=False).run()

    def numbers(summary: dict[str, Any]) -> Any:
        return summary["attacks"]["pgd"] | {"cost": None}

    summary, path = run(), out / "pgd" / "a.json"
    record = json.loads(path.read_text())
    better = json.loads(path.read_text())
    better["mean"]["adversarial"]["dice"] = 0.999
    for content in (
        "",
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps({"fingerprint": record["fingerprint"]}),
        json.dumps({key: value for key, value in record.items() if key != "files"}),
        json.dumps(better),
    ):
        path.write_text(content)
        capsys.readouterr()
        assert numbers(run()) == numbers(summary)
        said = capsys.readouterr()
        assert f"{path} is no record of this study or was changed" in said.err
        assert "1 of 2 cells are done already, 1 to go" in said.out
    # A volume that is not the one that was scored, under a record that holds.
    volumes = out / "pgd" / "a_adversarial.nii.gz", out / "pgd" / "b_adversarial.nii.gz"
    scored = volumes[0].read_bytes()
    volumes[0].write_bytes(volumes[1].read_bytes())
    assert numbers(run()) == numbers(summary) and volumes[0].read_bytes() != volumes[1].read_bytes()
    assert np.array_equal(
        nibabel.Nifti1Image.from_bytes(gzip.decompress(scored)).dataobj, nibabel.load(volumes[0]).dataobj
    )


KILLED = """
import os, signal, sys
from pathlib import Path
import monai_adversarial.studies.attack_unit as unit_module
from tests.studies.test_attack_study import make_study, two_attacks

original, calls = unit_module.Unit.run, []

def run(self, folder):
    record = original(self, folder)
    calls.append(self)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)  # files are written, the record is not
    return record

unit_module.Unit.run = run
make_study(Path(sys.argv[1]), Path(sys.argv[2]), two_attacks(), panels=False).run()
"""


def two_attacks() -> dict[str, Attack]:
    return {"pgd": PGD(epsilon=8, units="HU", steps=2), "elastic": ElasticAttack(3.0, steps=1)}


def test_a_killed_study_ends_with_the_tables_of_one_that_was_not(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        write_case(tmp_path / "data", name, seed)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    expected = make_study(tmp_path / "data", whole, two_attacks(), panels=False).run()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "data"), str(killed)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert len(list(killed.rglob("*.json"))) == 2 and not (killed / "results.csv").exists()
    found = make_study(tmp_path / "data", killed, two_attacks(), panels=False).run()
    for attack in two_attacks():
        assert found["attacks"][attack] | {"cost": 0} == expected["attacks"][attack] | {"cost": 0}
    tables = []
    for out in (whole, killed):
        with open(out / "results.csv", newline="") as stream:
            tables.append([{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(stream)])
    assert tables[0] == tables[1] and len(tables[0]) == 2 * 2 * 3


@pytest.mark.parametrize(
    "names", [["background", "liver"], ["background", "liver", "bone", "spleen"], {"1": "a"}, {"0": "air", "1": "b"}]
)
def test_class_names_of_the_wrong_number_end_the_study_before_a_search(
    tmp_path: Path, names: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_case(tmp_path / "data", "a", 0)
    made = make_study(tmp_path / "data", tmp_path / "out", one_step(), class_names=names)
    monkeypatch.setattr(ScoredRun, "_search", None)
    with pytest.raises(SettingsError, match="class_names must name each of the network's 3 output channels"):
        made.run()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_class_names_with_a_gap_are_refused(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    with pytest.raises(SettingsError, match="got names for the channels 1, 3"):
        make_study(tmp_path / "data", tmp_path / "out", one_step(), class_names={"1": "liver", "3": "bone"})


def test_two_cases_of_one_name_are_refused(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    made = make_study(tmp_path / "data", tmp_path / "out", one_step())
    made.dataset.data = [dict(made.dataset.data[0]), dict(made.dataset.data[0])]
    with pytest.raises(SettingsError, match="every cell needs names of its own, but 'a pgd' and 'a pgd'"):
        made.run()


def test_scored_classes_and_ignored_voxels_are_the_models(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    model = AttackedModel(Threshold(), image_units="HU", scored_classes=["bone"], class_names=NAMES)
    made = make_study(tmp_path / "data", tmp_path / "out", one_step(), model=model, class_names=None)
    made.run()
    record = record_of(tmp_path / "out", "pgd", "a")
    assert list(record["scores"]["clean"]) == ["bone"]
    assert record["mean"]["clean"]["dice"] == record["scores"]["clean"]["bone"]["dice"]


def test_every_record_has_the_same_keys(finished: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, _ = finished
    expected = {"case", "attack", "defense", "network", "reference", "scores", "mean", "measurements", "success"}
    expected |= {"success_definition", "cost", "configuration", "facts", "versions", "hashes", "files", "fingerprint"}
    for attack in attacks():
        record = record_of(out, attack, "first")
        assert expected <= set(record)
        assert set(record["hashes"]["files"]) == set(record["files"])
        assert set(record["versions"]) == {"monai_adversarial", "monai", "torch"}
        for measured in record["measurements"].values():
            assert set(measured) == {"value", "units", "limit", "tolerance", "bound", "norm"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"selected": "pdg"}, ValueError, "there is no attack 'pdg': choose among pgd"),
        ({"window": (100.0, 100.0)}, ValueError, "window"),
        ({"controls": 0}, ValueError, "controls"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    write_case(tmp_path, "a", 0)
    with pytest.raises(error, match=message):
        make_study(tmp_path, tmp_path / "out", **options)


def test_a_label_on_another_grid_is_found_before_anything_is_computed(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    small = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    nibabel.save(small, tmp_path / "data" / "labels" / "a.nii.gz")
    made = make_study(tmp_path / "data", tmp_path / "out", one_step())
    made.load = None  # type: ignore[method-assign,assignment]
    with pytest.raises(StudyError, match="nothing is done: .*image and label of a must have the same shape"):
        made.run()
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["a.json"]


def test_an_output_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot create the output folder"):
        make_study(tmp_path / "data", tmp_path / "file" / "out").run()


def test_overlapping_sigmoid_classes_are_refused(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "a", 0)
    model = AttackedModel(Threshold(), image_units="HU", activation="sigmoid")
    with pytest.raises(ValueError, match="exclusive classes"):
        make_study(tmp_path / "data", tmp_path / "out", one_step(), model=model)


def test_preprocessed_images_are_refused_because_they_cannot_be_saved_in_the_space_of_their_file(
    tmp_path: Path,
) -> None:
    write_case(tmp_path / "data", "a", 0)
    made = make_study(tmp_path / "data", tmp_path / "out", one_step())
    load = made.dataset.transform
    made.dataset.transform = lambda item: {k: v[:, :-1] if k != "case_id" else v for k, v in load(item).items()}
    with pytest.raises(StudyError, match="ScannerSpaceInferer"):
        made.run()


def test_the_displacement_of_a_chain_composes_its_members() -> None:
    image = torch.rand((1, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0)) * 100
    elastic = ElasticDeformation(2.0)
    chain = Chain([elastic, AdditiveNoise(5.0, units="HU"), elastic])
    model = AttackedModel(Threshold(), image_units="HU")
    result = Attack(chain, steps=2)(model, image, spacing=(2.0, 2.0, 2.0))
    found = displacement_in_mm(result)
    assert found is not None and found.shape == (3, 16, 16, 16)
    assert 0.1 < float(found.abs().max()) <= 4.1
    noise = PGD(epsilon=5, units="HU", steps=1)(Threshold(), image)
    assert displacement_in_mm(noise) is None


def test_a_mirrored_scan_is_said_after_its_first_cell_and_below_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class KnowsTheSide(Threshold):
        """Finds liver on one side alone and bone on the other, where they lie in these scans."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            none, liver, bone = super().forward(image).split(1, dim=1)
            side = torch.arange(image.shape[2]).view(1, 1, -1, 1, 1) < 15
            return torch.cat([none, torch.where(side, liver, -9.0), torch.where(side, -9.0, bone)], dim=1)

    for seed, name in enumerate(("a", "b")):
        write_case(tmp_path / "data", name, seed)
        for kind in ("images", "labels"):  # both are mirrored, their headers are not
            file = tmp_path / "data" / kind / f"{name}.nii.gz"
            volume = nibabel.load(file)
            values = np.asarray(volume.dataobj)[::-1]
            nibabel.save(nibabel.Nifti1Image(values.copy(), volume.affine), file)
    model = AttackedModel(KnowsTheSide(), image_units="HU")
    made = make_study(tmp_path / "data", tmp_path / "out", one_step(), model=model, panels=False)
    summary = made.run()
    printed = capsys.readouterr().out
    assert printed.count("when the image is mirrored along axis 0") == 1
    (doubt,) = summary["doubts"]
    assert doubt.startswith("caution: the clean Dice is below 0.5 in 2 of 2, so that little can be lost")
    assert f"Doubt: {doubt}" in (tmp_path / "out" / "summary.txt").read_text(encoding="utf-8")


def test_an_attack_without_a_gradient_is_said_below_the_table(tmp_path: Path) -> None:
    class Rounds(Threshold):
        """The scanner's own steps of 4 HU, through which no gradient goes."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward((image / 4).round() * 4)

    write_case(tmp_path / "data", "a", 0)
    model = AttackedModel(Rounds(), image_units="HU")
    summary = make_study(tmp_path / "data", tmp_path / "out", one_step(), model=model, panels=False).run()
    assert summary["doubts"] == [
        "pgd had hardly a gradient to follow in 1 of 1 cases, and left their score standing: that is no robustness; "
        "see docs/gradient_masking.md#zero-gradients."
    ]
