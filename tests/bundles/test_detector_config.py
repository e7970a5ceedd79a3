# SPDX-License-Identifier: Apache-2.0
"""The bundle fits a detector by one config and flags images by another."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monai_adversarial.data.phantom import write_ct_phantoms
from tests.bundles.here import run_here

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "ct_abdomen_unet"
CONFIGS = BUNDLE / "configs"


@pytest.mark.slow
def test_a_detector_is_fitted_saved_and_rejects_a_strange_image(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    write_ct_phantoms(tmp_path / "phantoms", 1, seed=1000, section="test", progress=False)
    (source,) = (tmp_path / "phantoms" / "images").glob("*.nii.gz")
    image = nib.load(source)
    voxels = np.asarray(image.dataobj)[::4, ::4, ::3]
    affine = image.affine @ np.diag([4.0, 4.0, 3.0, 1.0])
    draw = np.random.default_rng(0)
    clean, checked = tmp_path / "clean", tmp_path / "checked"
    clean.mkdir()
    checked.mkdir()

    def save(path: Path, change: np.ndarray) -> None:
        nib.save(nib.Nifti1Image((voxels + change).astype(np.int16), affine), path)

    for number in range(8):
        save(clean / f"case_{number}.nii.gz", draw.normal(0, 4 + number % 3, voxels.shape))
    save(checked / "a.nii.gz", draw.normal(0, 5, voxels.shape))
    save(checked / "b.nii.gz", draw.normal(0, 150, voxels.shape))
    options = {"output_dir": str(tmp_path / "out")}
    numbers = {"fit_cases": 4, "calibration_cases": 4, "false_positive_rate": 0.2}
    overlay = [str(CONFIGS / "inference.yaml"), str(CONFIGS / "fit_detector.yaml")]
    done = run_here(overlay, BUNDLE, tmp_path, dataset_dir=str(clean), **numbers, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    overlay = [str(CONFIGS / "inference.yaml"), str(CONFIGS / "detect.yaml")]
    done = run_here(overlay, BUNDLE, tmp_path, dataset_dir=str(checked), detection_action="reject", **options)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {name: np.asarray(nib.load(tmp_path / "out" / f"{name}_seg.nii.gz").dataobj) for name in "ab"}
    assert found["a"].any() and not found["b"].any()
    assert (tmp_path / "out" / "detection_raw.csv").is_file()
