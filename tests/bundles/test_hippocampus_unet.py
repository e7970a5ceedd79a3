# SPDX-License-Identifier: Apache-2.0
"""Every overlay of the hippocampus bundle trains, inside the real bundle workflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow

from monai_adversarial.handlers import (
    AdversarialLossTerm,
    AdversarialTraining,
    FastAdversarialTraining,
    SemiSupervisedAdversarialTraining,
)
from monai_adversarial.handlers.base import TrainingHandler
from monai_adversarial.networks import has_dual_normalization
from tests.bundles.here import run_here
from tests.hippocampus import BUNDLE, CASES, write_invented_scans

OVERLAYS: dict[str, type[TrainingHandler]] = {
    "pgd": AdversarialTraining,
    "fast": FastAdversarialTraining,
    "trades": AdversarialLossTerm,
    "dual_normalization": AdversarialTraining,
    "consistency": AdversarialLossTerm,
    "semi_supervised": SemiSupervisedAdversarialTraining,
}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_invented_scans(tmp_path_factory.mktemp("hippocampus"))


def workflow(overlay: str | None, scans: Path, folder: Path, **overrides: Any) -> ConfigWorkflow:
    files = [BUNDLE / "configs" / "train.yaml"] + ([BUNDLE / "configs" / f"{overlay}.yaml"] if overlay else [])
    options = {
        "bundle_root": str(BUNDLE),
        "dataset_dir": str(scans),
        "ckpt_dir": str(folder),
        "cases": CASES,
        "max_epochs": 1,
        "epoch_length": 2,
        "batch_size": 1,
        "roi_size": [16, 16, 16],
        **overrides,
    }
    made = ConfigWorkflow([str(file) for file in files], workflow_type="train", logging_file=False, **options)
    made.initialize()
    return made


@pytest.mark.parametrize("overlay", list(OVERLAYS))
def test_an_overlay_of_one_file_makes_the_training_adversarial(overlay: str, scans: Path, tmp_path: Path) -> None:
    made = workflow(overlay, scans, tmp_path)
    trainer = made.parser.get_parsed_content("train#trainer")
    handlers = made.parser.get_parsed_content("train#handlers")
    assert len(handlers) == 5 and type(handlers[-1]) is OVERLAYS[overlay]
    network = made.parser.get_parsed_content("network")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    made.run()
    assert trainer.state.iteration == 2
    assert torch.isfinite(torch.as_tensor(trainer.state.output[0]["loss"]))
    saved = torch.load(tmp_path / f"{overlay}.pt", weights_only=True)
    assert any(not torch.equal(saved[name], value) for name, value in before.items())
    assert has_dual_normalization(network) == (overlay == "dual_normalization")


def test_attacks_of_the_overlays_have_the_budget_of_the_table() -> None:
    table = yaml.safe_load((BUNDLE / "configs" / "robustness.yaml").read_text())["epsilon"]
    for overlay in OVERLAYS:
        text = (BUNDLE / "configs" / f"{overlay}.yaml").read_text()
        assert f"epsilon: {table}" in text, overlay


def test_clean_training_reports_its_validation(scans: Path, tmp_path: Path) -> None:
    made = workflow(None, scans, tmp_path)
    made.run()
    evaluator = made.parser.get_parsed_content("validate#evaluator")
    assert 0 <= evaluator.state.metrics["val_mean_dice"] <= 1
    assert (tmp_path / "clean.pt").is_file()


@pytest.mark.real_data
def test_an_overlay_trains_on_the_real_scans(shared_data: Path, tmp_path: Path) -> None:
    options = {"cases": CASES.replace("'training': None", "'training': 6"), "roi_size": [32, 48, 32]}
    made = workflow("pgd", shared_data / "hippocampus_mri", tmp_path, **options)
    made.run()
    trainer = made.parser.get_parsed_content("train#trainer")
    image = trainer.state.output[0]["image"]
    assert tuple(image.shape) == (1, 32, 48, 32)
    change = image - trainer.state.batch[0]["image"]
    assert 0.049 < float(change.abs().max()) <= 0.05 + 1e-6


def test_the_table_names_missing_data_in_one_sentence(tmp_path: Path) -> None:
    folders = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out")}
    done = run_here(str(BUNDLE / "configs" / "robustness.yaml"), BUNDLE, tmp_path, **folders)
    assert done.returncode != 0
    assert "folder must hold 'images' and 'labels'" in done.stderr
    assert not (tmp_path / "out").exists()
