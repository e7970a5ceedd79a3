# SPDX-License-Identifier: Apache-2.0
"""Adversarial NIfTI files: space, dtype and budget of the input, marked, whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import EnsureChannelFirst, LoadImage

from monai_adversarial.data import saving
from monai_adversarial.data.saving import (
    MARK,
    read_back,
    read_reference,
    round_to_stored,
    save_adversarial_nifti,
    save_label_nifti,
    volume_name,
)

SHAPE = (6, 5, 4)
OBLIQUE = np.array(
    [[-1.4772, 0.2605, 0.1, 40.0], [-0.2605, -1.4772, 0.05, 22.5], [0.05, -0.03, 3.0, -311.25], [0.0, 0.0, 0.0, 1.0]]
)


def write_input(
    path: Path, dtype: type = np.int16, slope: float = 1.0, intercept: float = 0.0, kind: type = nibabel.Nifti1Image
) -> Path:
    stored = np.random.default_rng(0).integers(0 if slope != 1.0 else -900, 120, SHAPE).astype(dtype)
    image = kind(stored, OBLIQUE)
    image.set_sform(OBLIQUE, code=2)
    image.set_qform(OBLIQUE, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Jane Doe"
    image.header["aux_file"] = b"Jane Doe"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"Jane Doe"))
    image.header.set_slope_inter(slope, intercept)
    nibabel.save(image, path)
    return path


@given(
    clean=st.integers(-1024, 3071),
    change=st.floats(-1, 1, width=32),
    epsilon=st.sampled_from([0.0, 0.3, 0.5, 1.0, 7.9, 8.0, 16.5]),
)
@settings(max_examples=200, deadline=None)
def test_rounding_never_leaves_the_budget(clean: int, change: float, epsilon: float) -> None:
    original = torch.tensor([float(clean)])
    adversarial = original + change * epsilon
    rounded = round_to_stored(adversarial, original, epsilon)
    assert float((rounded - original).abs()) <= epsilon
    assert float(rounded) == float(rounded.round())
    assert float((rounded - adversarial).abs()) < 1.0


def test_rounding_goes_to_the_nearest_value_inside_the_budget_and_toward_the_clean_voxel_at_its_edge() -> None:
    clean = torch.zeros(4)
    adversarial = torch.tensor([7.4, 7.6, -7.6, 0.6])
    assert round_to_stored(adversarial, clean, 7.8).tolist() == [7.0, 7.0, -7.0, 1.0]
    assert round_to_stored(adversarial, clean).tolist() == [7.0, 8.0, -8.0, 1.0]


def test_rounding_uses_the_stored_values_of_a_scaled_file() -> None:
    clean = torch.tensor([0.25, 0.25])
    rounded = round_to_stored(torch.tensor([1.2, 0.6]), clean, epsilon=1.0, slope=0.5, intercept=0.25)
    assert rounded.tolist() == [1.25, 0.75]
    assert round_to_stored(torch.tensor([1.2]), clean[:1], epsilon=0.99, slope=0.5, intercept=0.25).tolist() == [0.75]


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_the_saved_file_lies_in_the_space_of_the_input_and_is_marked(tmp_path: Path, ending: str, kind: type) -> None:
    source = write_input(tmp_path / f"case{ending}", kind=kind)
    clean = EnsureChannelFirst()(LoadImage(image_only=True)(source))[None]
    adversarial = clean + 3.7
    path = save_adversarial_nifti(
        adversarial, source, tmp_path / "out" / f"case_adversarial{ending}", "PGD", clean=clean, epsilon=3.7
    )
    before, after = nibabel.load(source), nibabel.load(path)
    assert type(after) is kind
    assert after.shape == before.shape and after.get_data_dtype() == np.int16
    assert np.array_equal(after.affine, before.affine)
    for form in ("get_sform", "get_qform"):
        found, wanted = getattr(after, form)(coded=True), getattr(before, form)(coded=True)
        assert found[1] == wanted[1] and np.array_equal(found[0], wanted[0])
    assert after.header.get_zooms() == before.header.get_zooms()
    assert after.header.get_xyzt_units() == ("mm", "sec")
    assert bytes(after.header["descrip"]).startswith(MARK.encode() + b" PGD")
    assert bytes(after.header["intent_name"]).startswith(b"ADVERSARIAL")
    assert np.array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj) + 3)
    assert b"Jane" not in after.header.binaryblock and not after.header.extensions
    assert os.listdir(tmp_path / "out") == [path.name]


def test_a_scaled_file_reads_back_with_the_right_values(tmp_path: Path) -> None:
    source = write_input(tmp_path / "case.nii.gz", np.uint8, slope=2.0, intercept=-100.0)
    clean = read_back(source)
    adversarial = (clean + 3.0).clamp(-100, 400)
    path = save_adversarial_nifti(adversarial, source, tmp_path / "case_adversarial.nii.gz", clean=clean, epsilon=3.0)
    saved = nibabel.load(path)
    assert saved.get_data_dtype() == np.uint8 and (saved.dataobj.slope, saved.dataobj.inter) == (2.0, -100.0)
    assert torch.equal(read_back(path).as_tensor(), clean.as_tensor() + 2.0)


def test_floating_point_files_are_not_rounded(tmp_path: Path) -> None:
    source = write_input(tmp_path / "case.nii", np.float32)
    adversarial = read_back(source) + 0.123
    path = save_adversarial_nifti(adversarial, source, tmp_path / "case_adversarial.nii")
    assert torch.equal(read_back(path).as_tensor(), adversarial.as_tensor())


def test_read_back_equals_what_monai_loads(tmp_path: Path) -> None:
    source = write_input(tmp_path / "case.nii.gz", np.int16, slope=0.5, intercept=3.0)
    loaded = EnsureChannelFirst()(LoadImage(image_only=True)(source))
    assert torch.equal(read_back(source).as_tensor(), loaded.as_tensor())
    assert torch.allclose(read_back(source).affine, loaded.affine.to(torch.float64))


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (40000.0, "a_adversarial.nii.gz", "int16 voxels of the input's file hold -32768 to 32767"),
        (float("nan"), "a_adversarial.nii.gz", "must be finite"),
        (0.0, "a.nii.gz", "must name the file as adversarial"),
        (0.0, "a_adversarial.png", "must end in .nii or .nii.gz"),
    ],
)
def test_values_and_names_that_cannot_be_saved_are_refused(
    tmp_path: Path, change: float, name: str, message: str
) -> None:
    source = write_input(tmp_path / "case.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ValueError, match=message):
        save_adversarial_nifti(read_back(source) + change, source, out / name)
    assert not os.listdir(out)


def test_another_grid_is_refused(tmp_path: Path) -> None:
    source = write_input(tmp_path / "case.nii.gz")
    with pytest.raises(ValueError, match="in scanner space"):
        save_adversarial_nifti(torch.zeros(1, 1, 4, 5, 6), source, tmp_path / "a_adversarial.nii.gz")


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_unreadable_input_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    source = tmp_path / "case.nii.gz"
    if content is None:
        with pytest.raises(FileNotFoundError, match="there is no image file"):
            read_reference(source)
        return
    source.write_bytes(content)
    with pytest.raises(RuntimeError, match="cannot read .*case.nii.gz as NIfTI") as caught:
        read_reference(source)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_one_sentence(tmp_path: Path) -> None:
    source = write_input(tmp_path / "case.nii.gz")
    source.write_bytes(source.read_bytes()[:-40])
    with pytest.raises(RuntimeError, match="cannot read .*case.nii.gz as NIfTI"):
        read_back(source)


def test_a_full_disk_names_the_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_input(tmp_path / "case.nii.gz")
    target = tmp_path / "case_adversarial.nii.gz"
    target.write_bytes(b"an older file")

    def full(image: object, path: Path) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saving.nibabel, "save", full)
    with pytest.raises(OSError, match="cannot write .*case_adversarial.nii.gz: No space left on device"):
        save_adversarial_nifti(read_back(source), source, target)
    assert sorted(os.listdir(tmp_path)) == ["case.nii.gz", "case_adversarial.nii.gz"]
    assert target.read_bytes() == b"an older file"


def test_output_below_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    source = write_input(tmp_path / "case.nii.gz")
    with pytest.raises(OSError, match="cannot write .*a_adversarial.nii.gz"):
        save_adversarial_nifti(read_back(source), source, source / "a_adversarial.nii.gz")


def test_labels_are_saved_as_small_integers(tmp_path: Path) -> None:
    source = write_input(tmp_path / "case.nii.gz", slope=2.0)
    label = torch.randint(0, 5, (1, 1, *SHAPE), generator=torch.Generator().manual_seed(0)).float()
    path = save_label_nifti(label, source, tmp_path / "case_adversarial_label.nii.gz")
    assert nibabel.load(path).get_data_dtype() == np.uint8
    assert torch.equal(read_back(path).as_tensor(), label[0])
    with pytest.raises(ValueError, match="class indices"):
        save_label_nifti(label + 0.5, source, tmp_path / "b_adversarial_label.nii.gz")


def test_volume_names() -> None:
    assert volume_name("/a/b.c.nii.gz") == ("b.c", ".nii.gz")
    assert volume_name("b.nii") == ("b", ".nii")
    assert volume_name("b.mha") == ("b", ".mha")
