# SPDX-License-Identifier: Apache-2.0
"""Small real parts for the snippets of the pages: files, engines, a bundle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.inferers import SlidingWindowInferer
from monai.losses import DiceCELoss
from monai.transforms import Activationsd, AsDiscreted, Compose, ScaleIntensityRanged
from torch import nn

from tests.helpers import LinearNetwork

ROOT = Path(__file__).parents[1]
#: what a snippet of any page may use without making it, as MONAI's own pages do
BEFORE = """
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, ScaleIntensityRanged
"""


def blocks(page: str, language: str = "python") -> list[str]:
    """The blocks of a page in one language, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def bright_organ(shape: tuple[int, ...] = (1, 1, 16, 16, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    """An image in HU and the label of what is above 40 HU: an organ of 41 to 45 HU and bone of 300 HU, in soft tissue
    of 35 to 39 HU beside fat of -300 to -200 HU."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(shape, dtype=torch.long)
    label[..., 4:12, 4:12, 4:12] = 1
    image = torch.where(label > 0, 41.0, 35.0) + 4 * noise
    image[..., :2, :, :] = -300.0 + 100 * noise[..., :2, :, :]
    image[..., -1:, :, :], label[..., -1:, :, :] = 300.0, 1
    return image, label


def network() -> nn.Module:
    """Foreground where an image that was windowed from -160..240 HU to 0..1 is above 40 HU, which is 0.5."""
    return LinearNetwork((-12.0, 12.0), (6.0, -6.0))


def write_files(folder: Path) -> dict[str, str]:
    """A scan and its label as NIfTI files."""
    image, label = bright_organ()
    found = {}
    for name, voxels, kind in (("scan", image, np.int16), ("organs", label, np.uint8)):
        file = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(voxels[0, 0].numpy().astype(kind), np.diag([2.0, 2.0, 3.0, 1.0])), file)
        found[name] = str(file)
    return found


def engine_parts() -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a trainer and of an evaluator whose pipelines window the image."""
    image, label = bright_organ()
    data = [{"image": image[0], "label": label[0]}]
    preprocessing = Compose([ScaleIntensityRanged("image", -160, 240, 0, 1, clip=True)])
    loader = DataLoader(Dataset(data, preprocessing), batch_size=1)
    model = network()
    common = {"device": torch.device("cpu"), "network": model, "inferer": SlidingWindowInferer((16, 16, 16))}
    trainer = {
        **common,
        "max_epochs": 1,
        "train_data_loader": loader,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "loss_function": DiceCELoss(to_onehot_y=True, softmax=True),
    }
    postprocessing = Compose([Activationsd("pred", softmax=True), AsDiscreted("pred", argmax=True)])
    return trainer, {**common, "val_data_loader": loader, "postprocessing": postprocessing}


def write_bundle(folder: Path, place: str) -> Path:
    """A bundle in the Model Zoo's layout with its engine under ``place``; where the config lies."""
    prefix = place.rsplit("#", 1)[0] + "#" if "#" in place else ""
    window = {"a_min": -160, "a_max": 240, "b_min": 0, "b_max": 1, "clip": True}
    training = place.endswith("trainer")
    loader = "train_data_loader" if training else "val_data_loader"
    engine: dict[str, Any] = {
        "_target_": "SupervisedTrainer" if training else "SupervisedEvaluator",
        "device": "$torch.device('cpu')",
        "network": "@network",
        "inferer": f"@{prefix}inferer",
        loader: f"@{prefix}dataloader",
    }
    if training:
        engine |= {
            "max_epochs": 1,
            "optimizer": "$torch.optim.SGD(@network.parameters(), lr=0.01)",
            "loss_function": {"_target_": "DiceCELoss", "softmax": True, "to_onehot_y": True},
        }
    flat = {
        f"{prefix}preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": ["image", "label"]},
                {"_target_": "EnsureChannelFirstd", "keys": ["image", "label"]},
                {"_target_": "ScaleIntensityRanged", "keys": "image", **window},
            ],
        },
        f"{prefix}dataset": {
            "_target_": "Dataset",
            "data": [{"image": "@files#scan", "label": "@files#organs"}],
            "transform": f"@{prefix}preprocessing",
        },
        f"{prefix}dataloader": {"_target_": "DataLoader", "dataset": f"@{prefix}dataset"},
        f"{prefix}inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16]},
        place: engine,
    }
    config: dict[str, Any] = {
        "imports": ["$import torch"],
        "files": write_files(folder),
        "network": "$__import__('tests.readme_parts', fromlist=['x']).network()",
        "initialize": ["$torch.manual_seed(0)"],
        "run": [f"$@{place}.run()"],
    }
    for name, value in flat.items():
        *outer, last = name.split("#")
        where = config
        for part in outer:
            where = where.setdefault(part, {})
        where[last] = value
    (folder / "configs").mkdir()
    file = folder / "configs" / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    return file
