# SPDX-License-Identifier: Apache-2.0
"""The bundle's attack config through the real command line, on a held-out phantom."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from monai_adversarial.data.phantom import write_ct_phantoms
from tests.bundles.here import run_here

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "ct_abdomen_unet"
ATTACK = str(BUNDLE / "configs" / "attack.yaml")


def run(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle run`` on attack.yaml, from another directory than the repository."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", ATTACK]
    return subprocess.run(
        [*command, "--bundle_root", str(BUNDLE), *overrides],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom that neither training nor validation saw."""
    folder = tmp_path_factory.mktemp("held_out")
    write_ct_phantoms(folder, 1, seed=1000, section="test", progress=False)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of few voxels, for what does not depend on how good the network is."""
    folder = tmp_path_factory.mktemp("small")
    write_ct_phantoms(folder, 1, seed=1000, section="test", progress=False, size=(32, 32, 24))
    return folder


@pytest.fixture(scope="module")
def attacked(phantom: Path) -> Path:
    """The output of the three default attacks, with fewer steps than a user's."""
    output = phantom / "attacked"
    steps = {"pgd": "8", "bias_field": "5", "elastic": "4"}
    shorter = [word for name, count in steps.items() for word in (f"--attacks#{name}#steps", count)]
    done = run(phantom, "--dataset_dir", str(phantom), "--output_dir", str(output), *shorter)
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def record(attacked: Path, attack: str) -> dict:
    return json.loads((attacked / attack / "case_000.json").read_text())


def test_pgd_at_8_hu_takes_what_noise_of_the_same_size_does_not(attacked: Path) -> None:
    mean = {name: scores["dice"] for name, scores in record(attacked, "pgd")["mean"].items()}
    assert mean["clean"] >= 0.8
    assert mean["clean"] - mean["random"] <= 0.03
    assert mean["clean"] - mean["adversarial"] >= 0.35


@pytest.mark.parametrize("attack", ["bias_field", "elastic"])
def test_smooth_attacks_take_more_than_their_random_counterparts(attacked: Path, attack: str) -> None:
    mean = {name: scores["dice"] for name, scores in record(attacked, attack)["mean"].items()}
    assert mean["adversarial"] < mean["random"] - 0.02
    assert mean["adversarial"] < mean["clean"] - 0.04


def test_saved_volume_is_the_input_changed_by_whole_hu_within_the_budget(attacked: Path, phantom: Path) -> None:
    clean = nib.load(next((phantom / "images").glob("*.nii.gz")))
    saved = nib.load(attacked / "pgd" / "case_000_adversarial.nii.gz")
    assert saved.get_data_dtype() == clean.get_data_dtype() == np.int16
    np.testing.assert_allclose(saved.affine, clean.affine, atol=1e-4)
    change = np.asarray(saved.dataobj, np.int32) - np.asarray(clean.dataobj, np.int32)
    assert np.abs(change).max() == 8
    assert b"ADVERSARIAL" in saved.header["descrip"].tobytes()


def test_every_report_is_there(attacked: Path) -> None:
    reports = ("results.csv", "summary.json", "summary.txt", "overview.png")
    for name in (*reports, "pgd/case_000.png", "elastic/case_000.png"):
        assert (attacked / name).stat().st_size > 0, name


BAD_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "units": ({"attacks#pgd#units": "hounsfield"}, "units must be one of"),
    "attack": ({"selected": "nonsense"}, "nonsense"),
    "names": (
        {"attacks#pgd#steps": 1, "selected": "pgd", "class_names": ["background", "liver"]},
        "class_names must name each of the network's 8 output channels, background first, got 2 names",
    ),
}


@pytest.mark.parametrize("kind", BAD_SETTINGS)
def test_bad_settings_are_one_sentence_and_leave_no_file(small: Path, tmp_path: Path, kind: str) -> None:
    overrides, says = BAD_SETTINGS[kind]
    output = tmp_path / "out"
    done = run_here(ATTACK, BUNDLE, tmp_path, dataset_dir=str(small / "images"), output_dir=str(output), **overrides)
    assert done.returncode != 0
    check_one_sentence(done.stderr, says)
    assert not output.exists() or not any(path.is_file() for path in output.rglob("*"))


def test_the_process_ends_with_one_sentence_and_its_exit_status(small: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    missing = str(tmp_path / "missing.pt")
    done = run(tmp_path, "--dataset_dir", str(small), "--output_dir", str(output), "--checkpoint", missing)
    assert done.returncode != 0
    check_one_sentence(done.stderr, "missing.pt")
    assert not output.exists()


def check_one_sentence(printed: str, says: str) -> None:
    sentences = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1 and says in sentences[0], printed[-2000:]
    assert "Traceback (most recent call last)" not in printed


def test_bad_cases_do_not_stop_good_ones_and_the_exit_status_says_so(small: Path, tmp_path: Path) -> None:
    """A truncated file, one that is no volume and one with NaN beside a good one, a float32 one and none without."""
    data, output = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    source = next((small / "images").glob("*.nii.gz"))
    for name in ("a", "b", "c", "d", "e"):
        shutil.copy(source, data / f"{name}.nii.gz")
    whole = nib.load(source)
    voxels = np.asarray(whole.dataobj, np.float32)
    (data / "b.nii.gz").write_bytes(source.read_bytes()[:-5000])
    (data / "c.nii.gz").write_bytes(b"not a volume")
    nib.save(nib.Nifti1Image(np.where(voxels > 200, np.nan, voxels), whole.affine), data / "d.nii.gz")
    nib.save(nib.Nifti1Image(voxels + np.float32(0.25), whole.affine), data / "e.nii.gz")
    one_step: dict[str, Any] = {"attacks#pgd#steps": 1, "attacks#bias_field#steps": 1, "selected": "pgd,bias_field"}
    one_step |= {"dataset_dir": str(data), "output_dir": str(output)}
    one_step |= {"pixdim": [9.6, 9.6, 12.0], "roi_size": [32, 32, 32]}  # one small window
    done = run_here(ATTACK, BUNDLE, tmp_path, **one_step)
    assert done.returncode != 0
    check_one_sentence(done.stderr, "6 of 10 cells failed, the tables cover what is done")
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(f"{name}.nii.gz" in sentence for name in "bcd") and "NaN" in sentence
    summary = json.loads((output / "summary.json").read_text())
    assert summary["cases"] == ["case_000", "case_004"] and summary["attacks"] == {}
    for attack in ("pgd", "bias_field"):
        assert summary["against_clean_prediction"][attack]["cases"] == 2
        for case in ("case_001", "case_002", "case_003"):
            assert set(json.loads((output / attack / f"{case}.json").read_text())) >= {"failed", "case", "attack"}
    saved = nib.load(output / "pgd" / "case_004_adversarial.nii.gz")
    assert saved.get_data_dtype() == np.float32
    assert np.abs(np.asarray(saved.dataobj) - voxels - 0.25).max() <= 8.001
    # Mended, the same command runs what is missing and ends well.
    for name in "bcd":
        shutil.copy(source, data / f"{name}.nii.gz")
    done = run_here(ATTACK, BUNDLE, tmp_path, **one_step)
    assert done.returncode == 0 and "4 of 10 cells are done already, 6 to go" in done.stdout
    assert json.loads((output / "summary.json").read_text())["failed"] == []


def test_one_key_makes_another_config_adversarial(phantom: Path, tmp_path: Path) -> None:
    """The overlay of the README on the bundle's own evaluate config, which knows nothing of attacks."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        """
adversary:
  _target_: monai_adversarial.engines.PrepareBatchAdversarial
  attack: {_target_: monai_adversarial.attacks.PGD, epsilon: 8, units: HU, steps: 5, step_size: 4}
  engine: "@validate#evaluator"
+initialize: ["@adversary"]
"""
    )
    evaluate, logging_file = str(BUNDLE / "configs" / "evaluate.yaml"), str(BUNDLE / "configs" / "logging.conf")
    dice = {}
    for name, configs in (("clean", [evaluate]), ("attacked", [evaluate, str(overlay)])):
        output = tmp_path / name
        options = {"dataset_dir": str(phantom), "output_dir": str(output), "logging_file": logging_file}
        done = run_here(configs, BUNDLE, tmp_path, **options)
        assert done.returncode == 0, done.stderr
        said = done.stdout + done.stderr
        assert ("-160..240 HU -> 0..1 from `preprocessing#" in said) == (name == "attacked")
        assert ("PGD budget 8 HU = 0.0200" in said) == (name == "attacked")
        rows = dict(line.split(",") for line in (output / "metrics.csv").read_text().split())
        dice[name] = float(rows["val_mean_dice"])
    assert dice["clean"] > 0.8
    assert dice["attacked"] < dice["clean"] - 0.2
