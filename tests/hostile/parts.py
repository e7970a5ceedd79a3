# SPDX-License-Identifier: Apache-2.0
"""Small studies, and what must hold after each hostile input: one sentence, an exit status, nothing half-written."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from torch import nn

from monai_adversarial.attacks import PGD, Attack
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies import AttackStudy
from monai_adversarial.studies.command_line import USER_ERRORS, root_sentence
from monai_adversarial.studies.records import read_record

SHAPE = (8, 7, 6)
TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp\.")


class Threshold(nn.Module):
    """Organ where the image is bright, after a little smoothing."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([-0.05, 0.05]))
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        smooth = torch.nn.functional.avg_pool3d(image, 3, 1, 1, count_include_pad=False)
        return (smooth - 60) * self.slope.view(1, 2, 1, 1, 1)


def voxels(seed: int = 0) -> np.ndarray:
    """Whole HU of soft tissue with a bright half."""
    found = np.random.default_rng(seed).normal(40, 20, SHAPE)
    found[:4] += 60
    return np.rint(found).astype(np.int16)


def write_image(path: Path, seed: int = 0) -> Path:
    """A small readable scan."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels(seed), np.diag([2.0, 2.0, 3.0, 1.0])), path)
    return path


def study(
    cases: list[dict[str, Any]], out: Path, attacks: Mapping[str, Attack] | None = None, **options: Any
) -> AttackStudy:
    """A study of one step per cell."""
    keys = ["image", "label"]
    load = Compose([LoadImaged(keys, allow_missing_keys=True), EnsureChannelFirstd(keys, allow_missing_keys=True)])
    attacks = attacks or {"pgd": PGD(8, "HU", steps=1)}
    names = options.pop("class_names", ["background", "organ"])
    settings = {"panels": False, "progress": False, **options}
    return AttackStudy(
        AttackedModel(Threshold(), image_units="HU"), Dataset(cases, load), attacks, out, names, **settings
    )


def ended(action: Callable[[], Any]) -> tuple[int, str]:
    """Exit status and sentence as a command line ends: an error of another kind is a defect and fails the test."""
    try:
        action()
    except USER_ERRORS as error:
        sentence = root_sentence(error)
        assert "\n" not in sentence and "Traceback" not in sentence
        return 1, sentence
    return 0, ""


def half_written(folder: Path) -> list[str]:
    """Temporary files, and volumes without a record that vouches for them."""
    left = [str(path) for path in folder.rglob("*") if TEMPORARY.match(path.name)]
    vouched: set[str] = set()
    for path in folder.rglob("*.json"):
        record, _ = read_record(path)
        if record is not None:
            vouched |= {str(folder / file) for file in record.get("files", {}).values()}
    return left + [str(path) for path in folder.rglob("*adversarial*.nii*") if str(path) not in vouched]
