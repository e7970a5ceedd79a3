# SPDX-License-Identifier: Apache-2.0
"""An audit from files to report: what is attacked, what is scored, what is resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from monai_adversarial.attacks import PGD, ElasticAttack
from monai_adversarial.audit import AuditTarget, TargetError, audit, load_plan
from monai_adversarial.audit.dry_run import passes_of
from monai_adversarial.audit.native_image import native_image
from monai_adversarial.data.saving import MARK, read_back
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies import StudyError
from monai_adversarial.utils.plain import as_plain
from tests.audit.pipeline import GRID, NAMES, PLAN, SHAPE, Threshold, target, write_cases

ROOT = Path(__file__).resolve().parents[2]


def _run(tmp_path: Path, cases: list[dict] | None = None, plan: Any = PLAN, **options: Any) -> dict[str, Any]:
    cases = write_cases(tmp_path / "data") if cases is None else cases
    model = options.pop("model", None) or target()
    return audit(model, cases, plan, tmp_path / "out", progress=False, **options)


def _entry(summary: dict[str, Any], row: str, reference: str = "label") -> dict[str, Any]:
    (found,) = [one for one in summary["results"] if (one["row"], one["reference"]) == (row, reference)]
    return found


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("audited")
    return folder, _run(folder, images=True)


def test_attacks_are_scored_on_the_grid_of_the_file(audited: tuple[Path, dict[str, Any]]) -> None:
    _, summary = audited
    clean = _entry(summary, "clean")["mean"]["clean"]["dice"]["mean"]
    assert clean > 0.85
    for row in ("pgd_5", "pgd_40"):
        mean = _entry(summary, row)["mean"]
        assert mean["clean"]["dice"]["mean"] == pytest.approx(clean)
        assert mean["adversarial"]["dice"]["mean"] <= mean["random"]["dice"]["mean"]
    assert _entry(summary, "pgd_40")["mean"]["adversarial"]["dice"]["mean"] < 0.6 * clean
    # A threshold that is 30 HU away is beyond 5 HU but at the borders.
    assert _entry(summary, "pgd_5")["mean"]["adversarial"]["dice"]["mean"] > 0.8
    assert summary["data"] == {
        "cases": 2,
        "with_label": 2,
        "kind": "not told",
        "spacing_mm": list(GRID),
        "notes": [],
    }
    assert {check["verdict"] for check in summary["health"]} == {"pass"}
    (curve,) = summary["curves"]
    assert curve["budgets"] == [5.0, 40.0] and curve["n"] == 2 and 0 < curve["relative_area"]["mean"] < 1


def test_moved_anatomy_is_scored_against_the_moved_label(audited: tuple[Path, dict[str, Any]]) -> None:
    _, summary = audited
    mean = _entry(summary, "elastic")["mean"]
    assert mean["adversarial_original_label"]["dice"]["mean"] < mean["adversarial"]["dice"]["mean"]


def test_volumes_and_rates_follow_the_records(audited: tuple[Path, dict[str, Any]]) -> None:
    _, summary = audited
    organ = _entry(summary, "pgd_40")["organs"]["bone"]
    changes = [
        case["scores"]["adversarial"]["bone"]["volume_ml"] - case["scores"]["clean"]["bone"]["volume_ml"]
        for case in summary["cases"]
        if case["row"] == "pgd_40"
    ]
    assert organ["volume_change_ml"]["mean"] == pytest.approx(sum(changes) / 2)
    assert 0.0 <= organ["missed_rate"] <= 1.0 and organ["invented_rate"] is None


def test_saved_images_hold_the_budget_on_the_grid_of_the_file(audited: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = audited
    for row, epsilon in (("pgd_5", 5), ("pgd_40", 40)):
        (case,) = [one for one in summary["cases"] if (one["row"], one["case"]) == (row, "case_001")]
        file = folder / "out" / case["files"]["adversarial"]
        saved, original = nibabel.load(file), nibabel.load(folder / "data" / "patient_1.nii.gz")
        assert np.allclose(saved.affine, original.affine) and saved.get_data_dtype() == original.get_data_dtype()
        change = np.abs(saved.get_fdata() - original.get_fdata())
        assert 0 < change.max() <= epsilon
        assert bytes(saved.header["descrip"]).startswith(MARK.encode())
        assert case["saved_file"]["largest_change"] == change.max()
        assert "patient" not in file.name
    # What resampling leaves of an attack on the network's grid is said, not assumed.
    file_dice = _entry(summary, "pgd_40")["saved_file"]["dice"]
    assert _entry(summary, "pgd_40")["mean"]["adversarial"]["dice"]["mean"] < file_dice < 1.0


def test_the_price_of_a_plan_is_what_it_costs(audited: tuple[Path, dict[str, Any]]) -> None:
    _, summary = audited
    for row in load_plan(PLAN).rows:
        cost = _entry(summary, row.name)["cost"]
        forwards, backwards = passes_of(row)
        assert cost["backwards"] == 2 * backwards
        # One more where an earlier point than the last was the best, and one for the file that was saved.
        assert 2 * forwards <= cost["forwards"] <= 2 * (forwards + 2)


def test_no_patient_is_named(audited: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = audited
    for file in (folder / "out").rglob("*"):
        assert "patient" not in file.name
        if file.suffix in (".json", ".csv", ".html"):
            assert "patient_" not in file.read_text(encoding="utf-8"), file


def test_everything_done_is_not_done_again(audited: tuple[Path, dict[str, Any]]) -> None:
    folder, summary = audited
    records = {file: file.stat().st_mtime_ns for file in (folder / "out" / "rows").rglob("*")}
    again = audit(target(), _cases(folder), PLAN, folder / "out", images=True, progress=False)
    assert {file: file.stat().st_mtime_ns for file in (folder / "out" / "rows").rglob("*")} == records
    assert again["results"] == summary["results"]


def _cases(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "image": str(folder / "data" / f"patient_{number}.nii.gz"),
            "label": str(folder / "data" / f"patient_{number}_seg.nii.gz"),
            "case_id": f"case_{number:03d}",
        }
        for number in range(2)
    ]


def test_other_weights_are_another_audit(tmp_path: Path) -> None:
    plan = {**PLAN, "rows": {"clean": PLAN["rows"]["clean"]}}
    cases = write_cases(tmp_path / "data")
    first = _run(tmp_path, cases, plan)
    second = _run(tmp_path, cases, plan, model=target(Threshold(-60.0)))
    assert first["results"][0]["mean"] != second["results"][0]["mean"]


def test_without_labels_it_is_stability_and_named_so(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data")
    del cases[1]["label"]
    summary = _run(tmp_path, cases)
    assert {one["reference"] for one in summary["results"]} == {"label", "clean prediction"}
    stable = _entry(summary, "pgd_40", "clean prediction")
    assert stable["n"] == 1 and stable["mean"]["clean"]["dice"]["mean"] == 1.0
    assert _entry(summary, "pgd_40")["n"] == 1
    assert "stability" in " ".join(summary["data"]["notes"])


def test_a_bad_case_does_not_stop_the_others(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 3)
    Path(cases[0]["image"]).write_bytes(b"not an image")
    with pytest.raises(StudyError, match="4 of 12 cells failed"):
        _run(tmp_path, cases)
    summary = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert _entry(summary, "pgd_40")["n"] == 2
    assert {(one["case"], one["row"]) for one in summary["failures"]} == {
        ("case_000", row) for row in ("clean", "pgd_5", "pgd_40", "elastic")
    }
    assert not any("patient_0" in one["reason"] for one in summary["failures"])


def test_a_deployment_that_answers_otherwise_is_refused(tmp_path: Path) -> None:
    def of_another_network(path: str) -> torch.Tensor:
        return torch.zeros(SHAPE, dtype=torch.int32)

    model = target(reference_prediction=of_another_network)
    with pytest.raises(TargetError, match="what was read of threshold is not what is deployed"):
        _run(tmp_path, model=model)
    assert not (tmp_path / "out" / "rows").exists()


def test_a_deployment_that_agrees_is_a_fact(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data")
    own = target()
    same = own.deploy(own.load(cases[0])).values
    model = target(reference_prediction=lambda path: same)
    summary = _run(tmp_path, cases, {**PLAN, "rows": {"clean": PLAN["rows"]["clean"]}}, model=model)
    facts = {fact["what"]: fact["value"] for fact in summary["target"]["facts"]}
    assert facts["same as deployed"] == "100.000% of the voxels of the first case are equal"


def test_a_constant_change_of_the_network_image_is_one_of_the_file(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 1)
    deployed = target()
    case = deployed.load(cases[0])
    result = PGD(5, units="HU", steps=1)(deployed.model_for(case), case.image, case.label)
    result.adversarial = torch.where(
        (case.image > 0.1) & (case.image < 0.9), case.image + 5 / 500, case.image
    ).as_subclass(type(case.image))
    saved = native_image(case, result)
    original = as_plain(read_back(cases[0]["image"]))[0]
    inside = (original > -50) & (original < 250)
    middle = inside[8:12, 7:11, 4:8]
    change = (saved - original)[8:12, 7:11, 4:8][middle]
    assert saved.shape == SHAPE and torch.allclose(change, torch.full_like(change, 5.0), atol=1e-3)


def test_a_deformation_moves_the_file_as_the_network_image(tmp_path: Path) -> None:
    cases = write_cases(tmp_path / "data", 1)
    deployed = target()
    case = deployed.load(cases[0])
    result = ElasticAttack(6.0, steps=2)(deployed.model_for(case), case.image, case.label)
    saved = native_image(case, result)
    header = nibabel.load(cases[0]["image"])
    moved = tmp_path / "moved.nii.gz"
    nibabel.save(nibabel.Nifti1Image(saved.numpy(), header.affine), moved)
    again = deployed.load({"image": str(moved), "case_id": "moved"})
    wanted, found, clean = (as_plain(image) for image in (result.adversarial, again.image, case.image))
    # Two interpolations instead of one: much nearer to the moved image than the image that did not move.
    assert float((found - wanted).abs().mean()) < 0.35 * float((clean - wanted).abs().mean())


def test_models_that_take_files_as_they_are(tmp_path: Path) -> None:
    model = AttackedModel(Threshold(), intensity={"a_min": -160, "a_max": 340}, image_units="HU", class_names=NAMES)
    summary = _run(tmp_path, model=model)
    assert _entry(summary, "pgd_40")["mean"]["adversarial"]["dice"]["mean"] < 0.6
    with pytest.raises(TargetError, match="image_units='network' does not say how its images are made"):
        AuditTarget.of_model(AttackedModel(Threshold(), intensity={"a_min": -160, "a_max": 340}))


def test_wrong_names_of_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises((StudyError, ValueError), match="class_names holds 2 names"):
        _run(tmp_path, model=target(told={"class_names": ["background", "liver"]}))


@pytest.mark.parametrize("cases", [[], [{"image": "a", "case_id": "x"}, {"image": "b", "case_id": "x"}]])
def test_no_case_and_doubled_ids_are_refused(cases: list[dict], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one case"):
        _run(tmp_path, cases)


def _without_seconds(file: Path) -> dict[str, Any]:
    """An audit's JSON without what differs from run to run."""
    summary = json.loads(file.read_text(encoding="utf-8"))
    for entry in [*summary["results"], *summary["cases"]]:
        for key in [key for key in entry["cost"] if "seconds" in key]:
            del entry["cost"][key]
    return summary


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    write_cases(tmp_path / "data", 3)
    script = tmp_path / "two.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from monai_adversarial.audit import audit\n"
        "from tests.audit.pipeline import PLAN, target, write_cases\n"
        "folder = Path(sys.argv[1])\n"
        "cases = write_cases(folder / 'data', 3)\n"
        "audit(target(), cases, PLAN, folder / sys.argv[2], progress=False)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    subprocess.run([*two, str(tmp_path), "two"], check=True, env=environment, capture_output=True, timeout=300)
    subprocess.run([sys.executable, str(script), str(tmp_path), "one"], check=True, env=environment, timeout=300)
    one, both = (_without_seconds(tmp_path / name / "audit.json") for name in ("one", "two"))
    assert one["results"] == both["results"] and one["cases"] == both["cases"]


@pytest.mark.slow
def test_a_killed_audit_loses_and_doubles_nothing(tmp_path: Path) -> None:
    write_cases(tmp_path / "data", 2)
    script = tmp_path / "one.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from monai_adversarial.audit import audit\n"
        "from tests.audit.pipeline import PLAN, target, write_cases\n"
        "folder = Path(sys.argv[1])\n"
        "cases = [{**c} for c in write_cases(folder / 'data', 2)]\n"
        "print('ready', flush=True)\n"
        "audit(target(), cases, PLAN, folder / sys.argv[2], progress=False)\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path)]
    subprocess.run([*command, "whole"], check=True, env=environment, timeout=300)
    process = subprocess.Popen([*command, "killed"], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 120
    while not list((tmp_path / "killed" / "rows").glob("*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    done = len(list((tmp_path / "killed" / "rows").glob("*/*.json")))
    assert 0 < done < 8
    subprocess.run([*command, "killed"], check=True, env=environment, timeout=300)
    whole, killed = (_without_seconds(tmp_path / name / "audit.json") for name in ("whole", "killed"))
    assert whole["results"] == killed["results"] and whole["cases"] == killed["cases"]
