# SPDX-License-Identifier: Apache-2.0
"""The bundle ct_abdomen_unet: metadata, weights, and every shipped config run for real."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, run, verify_metadata, verify_net_in_out
from monai.utils import set_determinism

from monai_adversarial.data.phantom import CLASS_NAMES, write_ct_phantoms
from tests.bundles.here import run_here

REPOSITORY = Path(__file__).resolve().parents[2]
BUNDLE = REPOSITORY / "bundles" / "ct_abdomen_unet"
CONFIGS = BUNDLE / "configs"
NAMES = ("train", "evaluate", "inference")
HELD_OUT_SEED = 1000


@pytest.fixture(autouse=True)
def restore_determinism() -> Iterator[None]:
    """The configs make torch deterministic for the whole process; undo that."""
    yield
    set_determinism(None)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out")
    write_ct_phantoms(folder, 1, HELD_OUT_SEED, section="test", progress=False)
    return folder


def parsed(name: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(CONFIGS / f"{name}.yaml"))
    parser["bundle_root"] = str(BUNDLE)
    return parser


def metadata() -> dict[str, Any]:
    return json.loads((CONFIGS / "metadata.json").read_text())


def test_metadata_verifies_against_the_local_schema() -> None:
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(BUNDLE / "docs" / "metadata_schema.json"))


@pytest.mark.parametrize("broken", ["version", "network_data_format", "channels"])
def test_the_local_schema_rejects_broken_metadata(tmp_path: Path, broken: str) -> None:
    content = metadata()
    if broken == "channels":
        content["network_data_format"]["outputs"]["pred"]["num_channels"] = "eight"
    else:
        del content[broken]
    (tmp_path / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Failed validating"):
        verify_metadata(
            meta_file=str(tmp_path / "metadata.json"), filepath=str(BUNDLE / "docs" / "metadata_schema.json")
        )


def test_metadata_agrees_with_the_code() -> None:
    content = metadata()
    channels = content["network_data_format"]["outputs"]["pred"]["channel_def"]
    assert tuple(channels[str(index)] for index in range(len(channels))) == CLASS_NAMES
    assert content["version"] in content["changelog"]


@pytest.mark.parametrize("name", NAMES)
def test_network_takes_and_gives_what_the_metadata_says(name: str) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / f"{name}.yaml"),
        device="cpu",
        n=2,
    )


def test_weights_are_small_and_load_safely_into_every_config() -> None:
    path = BUNDLE / "models" / "model.pt"
    assert path.stat().st_size <= 5 * 10**6
    state = torch.load(path, map_location="cpu", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state.values())
    for name in NAMES:
        parsed(name).get_parsed_content("network_def").load_state_dict(state, strict=True)


def test_configs_agree_on_network_spacing_window_and_inferer() -> None:
    first = parsed("train")
    for name in ("evaluate", "inference"):
        other = parsed(name)
        for key in ("network_def", "pixdim", "roi_size", "image_key", "device", "amp"):
            assert other[key] == first[key], (name, key)
    for key in ("a_min", "a_max", "b_min", "b_max", "clip"):
        windows = {str(value) for name in NAMES for value in re.findall(rf"{key}: (\S+)", config_text(name))}
        assert len(windows) == 1, (key, windows)
    inferers = [first["validate"]["inferer"], parsed("evaluate")["validate"]["inferer"], parsed("inference")["inferer"]]
    assert inferers[0] == inferers[1] == inferers[2]


def config_text(name: str) -> str:
    return (CONFIGS / f"{name}.yaml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_full_dotted_paths(name: str) -> None:
    targets = re.findall(r"_target_: (\S+)", config_text(name))
    assert targets and all("." in target for target in targets)


def test_training_and_held_out_phantoms_are_different_patients() -> None:
    train, evaluate, inference = (parsed(name) for name in NAMES)
    used = range(train["phantom_seed"], train["phantom_seed"] + train["phantom_count"])
    for other in (evaluate, inference):
        assert not set(used) & set(range(other["phantom_seed"], other["phantom_seed"] + other["phantom_count"]))


def test_inference_from_another_directory_reaches_the_recorded_dice(held_out: Path, tmp_path: Path) -> None:
    folders = {"dataset_dir": str(held_out), "output_dir": str(tmp_path / "out")}
    done = run_here(str(CONFIGS / "inference.yaml"), BUNDLE, tmp_path, **folders)
    assert done.returncode == 0, done.stderr[-3000:]
    image: Any = nib.load(held_out / "images" / "case_000.nii.gz")
    saved: Any = nib.load(tmp_path / "out" / "case_000_seg.nii.gz")
    assert saved.shape == image.shape and saved.get_data_dtype() == np.uint8
    np.testing.assert_allclose(saved.affine, image.affine, atol=1e-4)
    label = np.asarray(nib.load(held_out / "labels" / "case_000.nii.gz").dataobj)  # type: ignore[attr-defined]
    prediction = np.asarray(saved.dataobj)
    dice = [
        2 * np.sum((prediction == k) & (label == k)) / (np.sum(prediction == k) + np.sum(label == k))
        for k in range(1, len(CLASS_NAMES))
    ]
    assert np.mean(dice) >= 0.8, dict(zip(CLASS_NAMES[1:], dice, strict=True))


def test_evaluation_prints_and_saves_dice_of_every_organ(
    held_out: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run(
        config_file=str(CONFIGS / "evaluate.yaml"),
        bundle_root=str(BUNDLE),
        dataset_dir=str(held_out),
        output_dir=str(tmp_path),
        logging_file=str(CONFIGS / "logging.conf"),
    )
    printed = capsys.readouterr().out
    values = {name: float(v) for name, v in re.findall(r"^(Dice|[a-z ]+?)\s+(\d\.\d{4})$", printed, re.MULTILINE)}
    assert set(values) == {"Dice", *CLASS_NAMES[1:]}
    assert values["Dice"] == pytest.approx(np.mean([values[name] for name in CLASS_NAMES[1:]]), abs=1e-3)
    assert values["Dice"] >= 0.8
    with open(tmp_path / "metrics.csv") as file:
        saved = dict(line.strip().split(",") for line in file if line.strip())
    assert float(saved["val_mean_dice"]) == pytest.approx(values["Dice"], abs=1e-3)


def test_training_runs_and_saves_weights_that_the_other_configs_load(tmp_path: Path) -> None:
    write_ct_phantoms(tmp_path / "data", 3, seed=0, validation=1, progress=False, size=(32, 32, 24))
    shipped = (BUNDLE / "models" / "model.pt").read_bytes()
    run(
        config_file=str(CONFIGS / "train.yaml"),
        bundle_root=str(BUNDLE),
        dataset_dir=str(tmp_path / "data"),
        ckpt_dir=str(tmp_path / "models"),
        max_epochs=1,
        val_interval=1,
        roi_size=[32, 32, 32],
        pixdim=[8.0, 8.0, 8.0],
        logging_file=str(CONFIGS / "logging.conf"),
    )
    state = torch.load(tmp_path / "models" / "model.pt", map_location="cpu", weights_only=True)
    parsed("inference").get_parsed_content("network_def").load_state_dict(state, strict=True)
    assert (BUNDLE / "models" / "model.pt").read_bytes() == shipped


def test_the_demo_attacks_within_the_budgets_of_the_config_in_fewer_steps() -> None:
    demo = ConfigParser()
    demo.read_config([str(CONFIGS / f"{name}.yaml") for name in ("attack", "demo")])
    usual = parsed("attack")
    assert demo["selected"] == usual["selected"]
    for name in demo["selected"]:
        short, whole = (config.get_parsed_content(f"attacks#{name}") for config in (demo, usual))
        assert repr(short.perturbation) == repr(whole.perturbation)
        assert type(short.objective) is type(whole.objective)
        assert short.steps < whole.steps
        first = [getattr(one.search, "search", one.search).step_at(0, one.steps) for one in (short, whole)]
        assert first[0] >= first[1]
