# SPDX-License-Identifier: Apache-2.0
"""Text and numbers of a patient in every field of a NIfTI header: none of it is in what is saved."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_adversarial.data.saving import read_back, save_adversarial_nifti, save_label_nifti
from tests.hostile.parts import voxels

SECRET = b"DOE^JANE 1970"

#: field -> offset, length of NIfTI-1's header, and what is put there
FIRST = {
    "data_type": (4, 10),
    "db_name": (14, 18),
    "extents": (32, 4),
    "session_error": (36, 2),
    "regular": (38, 1),
    "dim_info": (39, 1),
    "intent_p1": (56, 4),
    "intent_p2": (60, 4),
    "intent_p3": (64, 4),
    "intent_code": (68, 2),
    "slice_start": (74, 2),
    "pixdim of the time axis": (92, 4),
    "pixdim of further axes": (96, 12),
    "slice_end": (120, 2),
    "slice_code": (122, 1),
    "cal_max": (124, 4),
    "cal_min": (128, 4),
    "slice_duration": (132, 4),
    "toffset": (136, 4),
    "glmax": (140, 4),
    "glmin": (144, 4),
    "descrip": (148, 80),
    "aux_file": (228, 24),
    "intent_name": (328, 16),
}
SECOND = {
    "intent_p1": (80, 8),
    "cal_max": (192, 8),
    "cal_min": (200, 8),
    "slice_duration": (208, 8),
    "toffset": (216, 8),
    "descrip": (240, 80),
    "aux_file": (320, 24),
    "intent_name": (508, 16),
    "unused_str": (525, 15),
}


def write(path: Path, kind: type, offset: int, length: int, value: bytes) -> bytes:
    image = kind(voxels(), np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    raw = bytearray(path.read_bytes())
    raw[offset : offset + length] = value
    path.write_bytes(raw)
    return bytes(raw)


@pytest.mark.parametrize(
    ("kind", "field"), [(1, name) for name in FIRST] + [(2, name) for name in SECOND], ids=lambda v: str(v)
)
def test_no_field_carries_a_patient_into_a_saved_file(kind: int, field: str, tmp_path: Path) -> None:
    offset, length = (FIRST if kind == 1 else SECOND)[field]
    image_kind = nibabel.Nifti1Image if kind == 1 else nibabel.Nifti2Image
    secret = (SECRET * 8)[:length]
    if field.startswith("pixdim"):
        secret = struct.pack(f"<{length // 4}f", *[19700101.0] * (length // 4))
    source = tmp_path / "scan.nii"
    write(source, image_kind, offset, length, secret)
    clean = read_back(source)
    image = save_adversarial_nifti(clean + 3, source, tmp_path / "a_adversarial.nii", "PGD")
    label = save_label_nifti((clean > 60).long(), source, tmp_path / "a_adversarial_label.nii")
    for path in (image, label):
        header = path.read_bytes()[: 352 if kind == 1 else 544]
        assert header[offset : offset + length] != secret and (length < 4 or secret not in header)
        assert np.array_equal(nibabel.load(path).affine, nibabel.load(source).affine)
        assert nibabel.load(path).header.get_zooms() == (2.0, 2.0, 3.0)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_extensions_and_what_lies_behind_the_header_are_not_copied(kind: type, tmp_path: Path) -> None:
    image = kind(voxels(), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("dicom", SECRET))
    nibabel.save(image, tmp_path / "scan.nii")
    assert SECRET in (tmp_path / "scan.nii").read_bytes()
    path = save_adversarial_nifti(
        read_back(tmp_path / "scan.nii"), tmp_path / "scan.nii", tmp_path / "a_adversarial.nii"
    )
    assert SECRET not in path.read_bytes()


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (2, 4), (1, 1)])
def test_both_forms_and_their_codes_stay(codes: tuple[int, int], tmp_path: Path) -> None:
    """A form whose code is 0 means nothing: numbers in it are not copied either."""
    q, s = codes
    affine = np.array([[0.0, -2, 0, 10], [2, 0, 0, 20], [0, 0, -3, 30], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(voxels(), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nibabel.save(image, tmp_path / "scan.nii")
    raw = bytearray((tmp_path / "scan.nii").read_bytes())
    raw[252:256] = struct.pack("<2h", q, s)
    (tmp_path / "scan.nii").write_bytes(raw)
    before = nibabel.load(tmp_path / "scan.nii")
    path = save_adversarial_nifti(read_back(tmp_path / "scan.nii"), before, tmp_path / "a_adversarial.nii")
    after = nibabel.load(path)
    assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == codes
    assert np.allclose(after.affine, before.affine)
    if not q:
        assert float(after.header["qoffset_x"]) == 0.0
    if not s:
        assert np.array_equal(after.header["srow_x"], np.zeros(4))
