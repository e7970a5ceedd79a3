# SPDX-License-Identifier: Apache-2.0
"""CT series as cases of an audit, and adversarial series out of it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from monai_adversarial.audit import audit  # noqa: E402
from monai_adversarial.audit.dicom_cases import dicom_cases, is_dicom  # noqa: E402
from monai_adversarial.data.dicom import read_series  # noqa: E402
from monai_adversarial.studies import StudyError  # noqa: E402
from tests.audit.pipeline import NAMES, PLAN, target  # noqa: E402
from tests.data.dicom.labels import box, write_structure_set  # noqa: E402
from tests.data.dicom.samples import write_series  # noqa: E402


def _volume(seed: int) -> np.ndarray:
    """Stored values (slice, row, column): tissue around 0 HU with a liver of 60 HU in the middle."""
    hounsfield = np.zeros((6, 14, 16)) + np.random.default_rng(seed).normal(0, 3, (6, 14, 16))
    hounsfield[1:5, 4:10, 4:12] += 60
    return (hounsfield.round() + 1024).astype(np.int16)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "patients"
    write_series(folder / "a", _volume(0), spacing=(2.0, 2.0), step=3.0)
    write_series(folder / "b", _volume(1), spacing=(2.0, 2.0), step=3.0)
    files = sorted((folder / "b").glob("*.dcm"))
    files[2].unlink()  # a slice is missing
    return folder


def test_series_are_cases_and_a_broken_one_fails_alone(study: Path, tmp_path: Path) -> None:
    assert is_dicom(study)
    cases = dicom_cases(study, tmp_path / "out" / "inputs", NAMES)
    assert [case["case_id"] for case in cases] == ["case_000", "case_001"]
    assert "problem" not in cases[0] and "missing" in cases[1]["problem"]
    series = read_series(study / "a")
    written = nibabel.load(cases[0]["image"])
    assert np.array_equal(written.get_fdata(), series.image[0].numpy())
    assert np.allclose(written.affine, series.affine.numpy()) and written.get_data_dtype() == np.int32
    with pytest.raises(StudyError, match="missing"):
        audit(target(), cases, PLAN, tmp_path / "out", images=True, progress=False)
    summary = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert {one["n"] for one in summary["results"]} == {1}
    assert {one["case"] for one in summary["failures"]} == {"case_001"}


def test_an_adversarial_series_holds_the_budget(study: Path, tmp_path: Path) -> None:
    cases = dicom_cases(study, tmp_path / "out" / "inputs", NAMES, limit=1)
    audit(target(), cases, PLAN, tmp_path / "out", images=True, progress=False)
    folder = tmp_path / "out" / "rows" / "pgd_40" / "case_000_adversarial_dicom"
    source, made = read_series(study / "a"), read_series(folder)
    change = (made.image.as_tensor() - source.image.as_tensor()).abs()
    assert 0 < float(change.max()) <= 40 and np.allclose(made.affine, source.affine)
    header = pydicom.dcmread(next(folder.glob("*.dcm")))
    assert "not for clinical use" in header.DerivationDescription and not header.PatientName
    assert header.SeriesInstanceUID != source.series_uid


def test_structures_are_labels(study: Path, tmp_path: Path) -> None:
    series = read_series(study / "a")
    write_structure_set(
        study / "a" / "structures.dcm", series, {"liver": [(place, box(4, 4, 8, 6)) for place in range(1, 5)]}
    )
    cases = dicom_cases(study, tmp_path / "inputs", NAMES, limit=1)
    assert "problem" not in cases[0], cases[0]
    label = nibabel.load(cases[0]["label"]).get_fdata()
    assert set(np.unique(label)) == {0, 1} and 100 < label.sum() < 300


def test_a_folder_without_a_series(tmp_path: Path) -> None:
    assert not is_dicom(tmp_path)
    with pytest.raises(FileNotFoundError, match="no CT series"):
        dicom_cases(tmp_path, tmp_path / "inputs", NAMES)
