# SPDX-License-Identifier: Apache-2.0
"""NRRD and MetaImage files as cases."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

itk = pytest.importorskip("itk")

from monai_adversarial.audit.command_line import main  # noqa: E402
from monai_adversarial.audit.itk_cases import holds_itk_volumes, itk_cases  # noqa: E402
from tests.audit.pipeline import write_cases  # noqa: E402


def _as_mha(folder: Path, count: int = 2) -> list[dict]:
    """The tests' cases as MetaImage, through ITK."""
    cases = write_cases(folder / "nifti", count)
    (folder / "mha").mkdir()
    for case in cases:
        for key in ("image", "label"):
            name = Path(case[key]).name.replace(".nii.gz", ".mha")
            itk.imwrite(itk.imread(case[key]), str(folder / "mha" / name))
    return cases


def test_voxels_and_space_are_those_of_the_file(tmp_path: Path) -> None:
    originals = _as_mha(tmp_path)
    assert holds_itk_volumes(tmp_path / "mha") and not holds_itk_volumes(tmp_path / "nifti")
    found = itk_cases(tmp_path / "mha", tmp_path / "work")
    assert [case["case_id"] for case in found] == ["case_000", "case_001"]
    for case, original in zip(found, originals, strict=True):
        for key in ("image", "label"):
            one, other = nibabel.load(case[key]), nibabel.load(original[key])
            assert np.array_equal(one.get_fdata(), other.get_fdata())
            assert np.allclose(one.affine, other.affine, atol=1e-4)


def test_a_damaged_file_fails_alone(tmp_path: Path) -> None:
    _as_mha(tmp_path)
    (tmp_path / "mha" / "patient_1.mha").write_bytes(b"ObjectType = Image\n")
    options = ["--python", "tests.audit.pipeline:target", "--plan", "quick", "--rows", "clean", "--no-pictures"]
    assert main(["audit", *options, "--data", str(tmp_path / "mha"), "--out", str(tmp_path / "out")]) == 1
    assert len(list((tmp_path / "out" / "rows" / "clean").glob("*.json"))) == 2
    assert "patient" not in (tmp_path / "out" / "audit.json").read_text(encoding="utf-8")
