# SPDX-License-Identifier: Apache-2.0
"""Invented scans in the layout of the hippocampus data: for tests of the bundle, never for results."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles" / "hippocampus_unet"
CASES = (
    "$data.split_cases(data.image_label_pairs(@dataset_dir), {'test': 1, 'validation': 1, 'training': None}, seed=0)"
)


def write_invented_scans(folder: Path, count: int = 12, seed: int = 0) -> Path:
    """Two bright neighbors on a dark, noisy background, as ``images`` and ``labels`` of one name."""
    random = np.random.RandomState(seed)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shape = tuple(int(n) for n in random.randint(18, 23, size=3))
        label = np.zeros(shape, dtype=np.uint8)
        label[4:9, 5:12, 5:12] = 1
        label[9:14, 5:12, 5:12] = 2
        image = 100.0 + 200.0 * (label == 1) + 400.0 * (label == 2) + random.normal(0, 20, shape)
        for part, voxels in (("images", image.astype(np.float32)), ("labels", label)):
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / part / f"case_{number:02d}.nii.gz")
    return folder
