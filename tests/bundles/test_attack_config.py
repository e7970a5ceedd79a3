# SPDX-License-Identifier: Apache-2.0
"""The bundle's attack config through the real command line, on a held-out phantom."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_adversarial.data.phantom import write_ct_phantoms

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "ct_abdomen_unet"


def run(directory: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """``python -m monai.bundle run`` on attack.yaml, from another directory than the repository."""
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(BUNDLE / "configs" / "attack.yaml")]
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
def attacked(phantom: Path) -> Path:
    """The output of the three default attacks."""
    output = phantom / "attacked"
    done = run(phantom, "--dataset_dir", str(phantom), "--output_dir", str(output))
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


@pytest.mark.parametrize("kind", ["weights", "image", "units", "attack"])
def test_bad_input_is_one_sentence_and_leaves_no_file(phantom: Path, tmp_path: Path, kind: str) -> None:
    data, output = tmp_path / "data", tmp_path / "out"
    shutil.copytree(phantom / "images", data)
    overrides = {
        "weights": ["--checkpoint", str(tmp_path / "missing.pt")],
        "image": [],
        "units": ["--attacks#pgd#units", "hounsfield"],
        "attack": ["--selected", "nonsense"],
    }[kind]
    if kind == "image":
        next(data.glob("*.nii.gz")).write_bytes(b"not a volume")
    done = run(tmp_path, "--dataset_dir", str(data), "--output_dir", str(output), *overrides)
    assert done.returncode != 0
    says = {"weights": "missing.pt", "image": ".nii.gz", "units": "units must be one of", "attack": "nonsense"}[kind]
    sentences = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1 and says in sentences[0], done.stderr[-2000:]
    assert "Traceback (most recent call last)" not in done.stderr
    assert not output.exists() or not any(path.is_file() for path in output.rglob("*"))


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
    dice = {}
    for name, configs in (("clean", ["evaluate.yaml"]), ("attacked", ["evaluate.yaml", "overlay.yaml"])):
        paths = [str(overlay if config == "overlay.yaml" else BUNDLE / "configs" / config) for config in configs]
        done = subprocess.run(
            [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(paths), "--bundle_root", str(BUNDLE)]
            + ["--dataset_dir", str(phantom), "--output_dir", str(tmp_path / name)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        fact = "-160..240 HU -> 0..1 from `preprocessing#"
        assert (fact in done.stdout + done.stderr) == (name == "attacked")
        assert ("PGD budget 8 HU = 0.0200" in done.stdout + done.stderr) == (name == "attacked")
        lines = (tmp_path / name / "metrics.csv").read_text().split()
        rows = dict(line.split(",") for line in lines)
        dice[name] = float(rows["val_mean_dice"])
    assert dice["clean"] > 0.8
    assert dice["attacked"] < dice["clean"] - 0.2
