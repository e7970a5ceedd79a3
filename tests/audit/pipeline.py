# SPDX-License-Identifier: Apache-2.0
"""A small deployed pipeline: files of one spacing, a network of another, a way back, and a network that is easy to
attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRanged,
    Spacingd,
)

from monai_adversarial.audit import AuditTarget, TargetParts

NAMES = ["background", "liver", "bone"]
SHAPE, SPACING = (20, 18, 12), (2.0, 2.0, 3.0)
GRID = (2.5, 2.5, 3.0)
#: what the tests' plan does: a curve over the budget, a field and a deformation
PLAN: dict[str, Any] = {
    "name": "test",
    "rows": {
        "clean": {"family": "clean", "title": "Clean"},
        "pgd": {
            "family": "gradient",
            "title": "PGD",
            "knowledge": "white box",
            "needs": "gradients",
            "attack": {"_target_": "monai_adversarial.attacks.PGD", "steps": 3},
            "over": {"epsilon": {"HU": [5, 40], "percentile": [0.05]}},
        },
        "elastic": {
            "family": "geometry",
            "title": "Elastic",
            "knowledge": "white box",
            "needs": "gradients",
            "attack": {"_target_": "monai_adversarial.attacks.ElasticAttack", "steps": 2, "max_displacement": 4.0},
        },
    },
}


class Threshold(torch.nn.Module):
    """Liver above 30 HU, bone above 200 HU, in images scaled from -160..340 HU to 0..1."""

    def __init__(self, sharpness: float = 60.0) -> None:
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(sharpness))
        self.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        liver, bone = (image - (30 + 160) / 500) * self.sharpness, (image - (200 + 160) / 500) * self.sharpness
        return torch.cat([-liver, torch.minimum(liver, -bone), bone], dim=1)


def write_cases(folder: Path, count: int = 2, labels: bool = True, shape: tuple[int, ...] = SHAPE) -> list[dict]:
    """CT-like files with an affine that is neither RAS nor centered, and their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = (17.0, -9.0, 4.0)
    entries = []
    for number in range(count):
        random = np.random.default_rng(number)
        axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
        label = np.zeros(shape, dtype=np.uint8)
        label[(axes[0] ** 2 + axes[1] ** 2 + axes[2] ** 2) < 0.5 + 0.1 * number] = 1
        label[(np.abs(axes[0]) < 0.25) & (np.abs(axes[1] - 0.6) < 0.3)] = 2
        image = np.choose(label, (0, 60, 320)) + random.normal(0, 3, shape)
        name = f"patient_{number}"
        nibabel.save(nibabel.Nifti1Image(image.round().astype(np.int16), affine), folder / f"{name}.nii.gz")
        entry = {"image": str(folder / f"{name}.nii.gz"), "case_id": f"case_{number:03d}"}
        if labels:
            nibabel.save(nibabel.Nifti1Image(label, affine), folder / f"{name}_seg.nii.gz")
            entry["label"] = str(folder / f"{name}_seg.nii.gz")
        entries.append(entry)
    return entries


def parts(network: torch.nn.Module | None = None, **changes: Any) -> TargetParts:
    """The pipeline of a network that was trained on another grid, and back onto the file's."""
    preprocessing = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=GRID, mode="bilinear"),
            ScaleIntensityRanged("image", -160, 340, 0, 1, clip=True),
        ]
    )
    postprocessing = Compose(
        [
            Activationsd("pred", softmax=True),
            Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=False),
            AsDiscreted("pred", argmax=True),
        ]
    )
    given: dict[str, Any] = {
        "kind": "test pipeline",
        "name": "threshold",
        "network": network or Threshold(),
        "inferer": SlidingWindowInferer((12, 12, 8), 2, 0.25),
        "preprocessing": preprocessing,
        "postprocessing": postprocessing,
        "told": {"class_names": NAMES},
    }
    return TargetParts(**{**given, **changes})


def target(network: torch.nn.Module | None = None, **changes: Any) -> AuditTarget:
    """See ``parts``."""
    return AuditTarget(parts(network, **changes))
