# SPDX-License-Identifier: Apache-2.0
"""Series below a folder: one entry each, with their labels, and nothing left out unnoticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from monai_adversarial.data.dicom import find_series, holds_dicom, library, read_series  # noqa: E402
from tests.data.dicom.labels import box, write_structure_set  # noqa: E402
from tests.data.dicom.samples import write_enhanced, write_series  # noqa: E402


def test_a_folder_of_patients_lists_every_series_with_its_labels(tmp_path: Path) -> None:
    first = write_series(tmp_path / "patient_1" / "ct")
    second = write_series(tmp_path / "patient_2", change=lambda d, k: setattr(d, "SeriesNumber", 3), series_uid="1.2.3")
    third = write_series(tmp_path / "patient_2" / "again", series_uid="1.2.4")
    for file in third.iterdir():
        file.rename(second / f"other_{file.name}")
    third.rmdir()
    write_enhanced(tmp_path / "patient_3" / "all.dcm")
    label = write_structure_set(
        tmp_path / "patient_1" / "rs.dcm", read_series(first), {"liver": [(1, box(2, 2, 3, 3))]}
    )
    found = find_series(tmp_path)
    assert [one.folder.relative_to(tmp_path).as_posix() for one in found] == [
        "patient_1/ct",
        "patient_2",
        "patient_2",
        "patient_3",
    ]
    assert [len(one.files) for one in found] == [5, 5, 5, 1]
    assert [one.uid for one in found[1:3]] == ["1.2.4", "1.2.3"]  # by their numbers, 2 and 3
    assert found[0].labels == (label,) and not any(one.labels for one in found[1:])
    assert all(read_series(one.files).image.shape[-1] == 5 for one in found)
    with pytest.raises(ValueError, match="2 series"):
        read_series(second)


def test_what_is_no_ct_volume_is_left_out_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    write_series(tmp_path / "mr", change=lambda d, k: setattr(d, "Modality", "MR"))
    write_series(
        tmp_path / "scout", change=lambda d, k: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]) or k < 1
    )
    write_series(tmp_path / "adversarial_ct")
    write_series(tmp_path / ".hidden")
    with pytest.warns(UserWarning, match=r"5 file\(s\) of modality MR, 1 localizer"):
        found = find_series(tmp_path)
    assert [one.folder.name for one in found] == ["ct"]


def test_a_file_that_is_only_called_dcm_is_named_and_not_left_out(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    (tmp_path / "ct" / "slice_005.dcm").write_bytes(b"")
    with pytest.raises(RuntimeError, match="ct/slice_005.dcm is not a DICOM file"):
        find_series(tmp_path)


def test_files_without_an_ending_are_found(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "ct")
    for file in sorted(folder.iterdir()):
        file.rename(file.with_suffix(""))
    (folder / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (folder / "readme").write_text("no DICOM")
    assert len(find_series(tmp_path)[0].files) == 5


def test_a_folder_holds_dicom_where_a_file_begins_as_such(tmp_path: Path) -> None:
    (tmp_path / "readme").write_text("no DICOM")
    assert not holds_dicom(tmp_path) and not holds_dicom(tmp_path / "absent")
    write_series(tmp_path / "adversarial_ct")
    assert not holds_dicom(tmp_path)
    write_series(tmp_path / "patient" / "ct")
    assert holds_dicom(tmp_path)


@pytest.mark.parametrize("read", [find_series, read_series])
def test_without_the_extra_one_sentence_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable
) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    folder = write_series(tmp_path / "ct")
    monkeypatch.setattr(library, "import_module", absent)
    with pytest.raises(ImportError, match=r'DICOM needs pydicom: pip install "monai-adversarial\[dicom\]"'):
        read(folder)


def test_folders_without_a_series_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no CT series below"):
        find_series(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_series(tmp_path / "absent")
