# SPDX-License-Identifier: Apache-2.0
"""The training configs of the learned purifiers, each run for real, and the shipped weights."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser, run
from monai.utils import set_determinism

from monai_adversarial.data.phantom import write_ct_phantoms
from monai_adversarial.networks.diffusion_denoiser import PURIFICATION_SCHEDULE
from monai_adversarial.purifiers.autoencoder import AutoencoderDenoise
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.diffusion import DiffusionPurification
from monai_adversarial.purifiers.high_level_guided import HighLevelGuidedDenoise
from monai_adversarial.purifiers.learned import LearnedPurifier
from monai_adversarial.purifiers.masked_autoencoder import MaskedAutoencoderReconstruction
from tests.bundles.here import run_here

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "ct_abdomen_unet"
CONFIGS = BUNDLE / "configs"
PURIFIERS: dict[str, type[LearnedPurifier]] = {
    "autoencoder": AutoencoderDenoise,
    "high_level_guided": HighLevelGuidedDenoise,
    "diffusion": DiffusionPurification,
    "masked_autoencoder": MaskedAutoencoderReconstruction,
}
WINDOW = {"a_min": -160.0, "a_max": 240.0}
CONTEXT = ImageContext(None, (0,))
SENTENCES = {"MONAI_ADVERSARIAL_TRACEBACK": ""}
every = pytest.mark.parametrize("name", PURIFIERS)


@pytest.fixture(autouse=True)
def restore_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The configs make torch deterministic and set the hook for errors, for the whole process; undo that."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield
    set_determinism(None)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_ct_phantoms(folder, 3, seed=0, validation=1, progress=False, size=(32, 32, 24))
    return folder


def files(name: str) -> list[str]:
    return [str(CONFIGS / "train_purifier.yaml"), str(CONFIGS / f"purifier_{name}.yaml")]


def parsed(*paths: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(list(paths))
    return parser


def soft_tissue() -> torch.Tensor:
    """Noise of 10 HU on 40 HU, with a brighter half, in network values."""
    image = 0.5 + 0.025 * torch.randn((1, 1, 24, 24, 24), generator=torch.Generator().manual_seed(0))
    image[..., 12:] += 0.1
    return image


@every
def test_training_saves_weights_that_the_purifier_loads(name: str, phantoms: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"patches_per_volume": 1, "max_epochs": 1, "roi_size": [32, 32, 16], "pixdim": [8.0] * 3}
    run(
        config_file=files(name),
        bundle_root=str(BUNDLE),
        dataset_dir=str(phantoms),
        weights=str(tmp_path / "purifier.pt"),
        logging_file=str(CONFIGS / "logging.conf"),
        **options,
    )
    assert [item.name for item in tmp_path.iterdir()] == ["purifier.pt"]
    purifier = PURIFIERS[name](tmp_path / "purifier.pt", intensity=WINDOW)
    assert bool(torch.isfinite(purifier.purify(soft_tissue(), CONTEXT)).all())
    fresh = PURIFIERS[name].default_network().state_dict()
    state = torch.load(tmp_path / "purifier.pt", weights_only=True)
    assert all(int(state[key]) >= 1 for key in state if key.endswith("num_batches_tracked"))
    assert any(not torch.equal(state[key], fresh[key]) for key in state if "head" in key or "unet.out.2" in key)


def test_without_an_overlay_nothing_is_trained_or_overwritten(tmp_path: Path) -> None:
    weights = tmp_path / "purifier.pt"
    weights.write_bytes(b"kept")
    data = tmp_path / "data"
    folders = {"weights": str(weights), "default_dataset_dir": str(data)}
    done = run_here(files("autoencoder")[:1], BUNDLE, tmp_path, SENTENCES, **folders)
    assert done.returncode != 0
    assert "error: choose a purifier: add an overlay such as configs/purifier_autoencoder.yaml" in done.stderr
    assert "Traceback" not in done.stderr
    assert weights.read_bytes() == b"kept" and not data.exists()


def test_a_missing_datalist_is_one_sentence(tmp_path: Path) -> None:
    weights = tmp_path / "purifier.pt"
    folders = {"dataset_dir": str(tmp_path / "none"), "weights": str(weights)}
    done = run_here(files("autoencoder"), BUNDLE, tmp_path, SENTENCES, **folders)
    assert done.returncode != 0
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert str(tmp_path / "none" / "datalist.json") in sentence
    assert "Traceback" not in done.stderr and not weights.exists()


@every
def test_a_purifier_is_trained_on_the_grid_and_window_of_the_segmentation_network(name: str) -> None:
    train, purifier = parsed(str(CONFIGS / "train.yaml")), parsed(*files(name))
    assert purifier["pixdim"] == train["pixdim"]
    window = train["train"]["deterministic_transforms"][4]
    assert purifier["window"] == [window["a_min"], window["a_max"]] == [WINDOW["a_min"], WINDOW["a_max"]]
    for key in ("phantom_count", "phantom_validation", "phantom_seed"):
        assert purifier[key] == train[key]
    assert purifier["purifier_name"] == name
    for path in files(name):
        assert all("." in target for target in re.findall(r"_target_: (\S+)", Path(path).read_text()))


def test_guidance_comes_from_the_segmentation_network() -> None:
    train, purifier = parsed(str(CONFIGS / "train.yaml")), parsed(*files("high_level_guided"))
    assert purifier["segmentation_def"] == train["network_def"]


def test_the_diffusion_model_is_trained_on_the_schedule_it_is_used_with() -> None:
    scheduler = {k: v for k, v in parsed(*files("diffusion"))["scheduler"].items() if k != "_target_"}
    assert scheduler == PURIFICATION_SCHEDULE


@every
def test_shipped_weights_are_small_and_do_not_add_noise(name: str) -> None:
    path = BUNDLE / "models" / f"purifier_{name}.pt"
    assert path.stat().st_size <= 1.5 * 10**6
    purifier = PURIFIERS[name](path, intensity=WINDOW)
    image = soft_tissue()
    out = purifier.purify(image, CONTEXT)
    inner = (..., slice(4, 20), slice(4, 20), slice(4, 8))
    noise = float(image[inner].std())
    # The diffusion model first adds 15 HU; the guided denoiser answers to the segmentation, not to the noise.
    limit = {"diffusion": 0.8 * math.hypot(noise, 15 / 400), "high_level_guided": 1.1 * noise}.get(name, noise)
    assert 0.0 < float((out - image)[inner].abs().mean()) and float(out[inner].std()) < limit
    assert abs(float(out[inner].mean() - image[inner].mean())) * 400 < 8.0  # HU
