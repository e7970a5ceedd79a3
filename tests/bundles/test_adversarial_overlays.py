# SPDX-License-Identifier: Apache-2.0
"""The overlays that make the phantom bundle's training and evaluation adversarial, and the hardened weights."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from monai_adversarial.data.phantom import write_ct_phantoms
from monai_adversarial.utils.weights import load_weights

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "ct_abdomen_unet"
CONFIGS = BUNDLE / "configs"
HARDENED = BUNDLE / "models" / "hardened.pt"


def run(files: list[str], *options: str) -> subprocess.CompletedProcess[str]:
    names = str([str(CONFIGS / file) for file in files])
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", names, "--bundle_root", str(BUNDLE)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=900)


def test_hardened_weights_are_small_and_fit_the_bundle() -> None:
    assert HARDENED.stat().st_size <= 5_000_000
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / "inference.yaml"))
    network = load_weights(parser.get_parsed_content("network_def"), HARDENED)
    clean = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    assert any(not torch.equal(value, clean[name]) for name, value in network.state_dict().items())


def test_the_training_overlay_writes_hardened_weights_and_leaves_the_clean_ones(tmp_path: Path) -> None:
    write_ct_phantoms(tmp_path / "data", 3, seed=0, validation=1, progress=False, size=(32, 32, 24))
    (tmp_path / "models").mkdir()
    clean = (BUNDLE / "models" / "model.pt").read_bytes()
    (tmp_path / "models" / "model.pt").write_bytes(clean)
    done = run(
        ["train.yaml", "adversarial_training.yaml"],
        *("--dataset_dir", str(tmp_path / "data"), "--ckpt_dir", str(tmp_path / "models"), "--max_epochs", "1"),
        *("--val_interval", "1", "--roi_size", "[32, 32, 32]", "--pixdim", "[8.0, 8.0, 8.0]"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "AdversarialTraining: attacks every iteration with PGD(epsilon=8, units='HU', steps=4" in said
    assert "pgd_mean_dice" in said and "val_mean_dice" in said
    hardened = torch.load(tmp_path / "models" / "hardened.pt", weights_only=True)
    before = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    assert set(hardened) == set(before) and any(not torch.equal(hardened[name], before[name]) for name in before)
    assert (tmp_path / "models" / "model.pt").read_bytes() == clean


def test_segmentations_of_attacked_images_are_named_as_such(tmp_path: Path) -> None:
    """In the same folder: nobody takes them for clinical results, and the clean ones stay."""
    write_ct_phantoms(tmp_path / "data", 1, seed=0, section="test", progress=False, size=(32, 32, 24))
    options = ["--dataset_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")]
    options += ["--roi_size", "[32, 32, 32]", "--pixdim", "[8.0, 8.0, 8.0]"]
    assert run(["inference.yaml"], *options).returncode == 0
    (clean,) = (tmp_path / "out").rglob("*.nii.gz")
    before = clean.read_bytes()
    (tmp_path / "overlay.yaml").write_text(
        "adversary:\n"
        "  _target_: monai_adversarial.engines.PrepareBatchAdversarial\n"
        "  attack: {_target_: monai_adversarial.attacks.PGD, epsilon: 16, units: HU, steps: 2}\n"
        '  engine: "@evaluator"\n'
        '+initialize: ["@adversary"]\n'
    )
    done = run(["inference.yaml", str(tmp_path / "overlay.yaml")], *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(file.name for file in (tmp_path / "out").rglob("*.nii.gz")) == [
        clean.name,
        clean.name.replace("_seg.", "_seg_pgd."),
    ]
    assert clean.name.endswith("_seg.nii.gz") and clean.read_bytes() == before
    assert clean.with_name(clean.name.replace("_seg.", "_seg_pgd.")).read_bytes() != before


@pytest.mark.slow
def test_the_evaluation_overlay_shows_that_hardened_weights_resist(tmp_path: Path) -> None:
    write_ct_phantoms(tmp_path / "data", 1, seed=1000, section="test", progress=False)
    found = {}
    for weights in ("model.pt", "hardened.pt"):
        done = run(
            ["evaluate.yaml", "adversarial_evaluation.yaml"],
            *("--dataset_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / weights)),
            *("--checkpoint", str(BUNDLE / "models" / weights), "--attack_steps", "5"),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[weights] = {}
        for metric in ("val_mean_dice", "pgd_mean_dice", "worst_case_mean_dice"):
            with open(tmp_path / weights / f"{metric}_raw.csv", newline="") as stream:
                found[weights][metric] = float(list(csv.DictReader(stream))[0]["mean"])
    for scores in found.values():
        assert scores["worst_case_mean_dice"] <= scores["pgd_mean_dice"] < scores["val_mean_dice"]
    assert found["model.pt"]["worst_case_mean_dice"] < 0.6 * found["model.pt"]["val_mean_dice"]
    assert found["hardened.pt"]["worst_case_mean_dice"] > 0.8 * found["hardened.pt"]["val_mean_dice"]
