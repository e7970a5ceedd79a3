# SPDX-License-Identifier: Apache-2.0
"""NRRD and MHA volumes: the space that their header says, and adversarial copies in it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import ITKReader
from monai.transforms import EnsureChannelFirst, LoadImage

itk = pytest.importorskip("itk")

from monai_adversarial.data.itk_volumes import read_volume, save_adversarial_volume  # noqa: E402
from monai_adversarial.utils.stored_grid import StoredGrid  # noqa: E402

DIRECTION = np.linalg.qr(np.array([[0.98, -0.2, 0.0], [0.19, 0.96, 0.2], [0.04, 0.2, 0.98]]))[0]
SPACING, ORIGIN = (0.7, 0.8, 2.5), (1.5, -20.25, 300.125)


def voxels(dtype: type = np.int16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(dtype)


def write(path: Path, dtype: type = np.int16, **keys: str) -> Path:
    image = itk.image_from_array(np.ascontiguousarray(voxels(dtype).T))
    image.SetDirection(itk.matrix_from_array(DIRECTION))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    dictionary = image.GetMetaDataDictionary()
    for key, value in keys.items():
        dictionary[key] = value
    image.SetMetaDataDictionary(dictionary)
    itk.imwrite(image, str(path))
    return path


def expected_affine() -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = DIRECTION @ np.diag(SPACING), ORIGIN
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@pytest.mark.parametrize("ending", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_voxels_and_space_are_those_of_the_file(tmp_path: Path, ending: str, dtype: type) -> None:
    path = write(tmp_path / f"case{ending}", dtype)
    volume = read_volume(path)
    assert np.array_equal(volume.image.numpy()[0], voxels(dtype).astype(np.float32)) and volume.dtype == dtype
    assert np.allclose(volume.affine.numpy(), expected_affine(), atol=1e-9)
    limits = np.iinfo(dtype) if dtype is not np.float32 else None
    assert volume.stored_grid == (None if limits is None else StoredGrid(1.0, 0.0, limits.min, limits.max))
    loaded = EnsureChannelFirst()(LoadImage(reader=ITKReader(), image_only=True)(path))
    assert torch.equal(loaded.as_tensor(), volume.image.as_tensor()) and torch.allclose(loaded.affine, volume.affine)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_the_copy_has_the_space_and_type_of_its_source_and_is_marked(tmp_path: Path, ending: str) -> None:
    volume = read_volume(write(tmp_path / f"case{ending}", patient="Jane Doe"))
    image = volume.image.as_tensor() + 3.7
    path = save_adversarial_volume(image, volume, tmp_path / "out" / f"case_adversarial{ending}", "PGD", epsilon=3.7)
    again = read_volume(path)
    assert torch.equal(again.image.as_tensor(), volume.image.as_tensor() + 3.0) and again.dtype == np.int16
    assert torch.allclose(again.affine, volume.affine, atol=1e-9, rtol=0)
    header = path.read_bytes()
    assert b"ADVERSARIAL EXAMPLE monai_adversarial not for clinical use PGD" in header and b"Jane" not in header
    assert os.listdir(tmp_path / "out") == [path.name]


def test_values_stay_inside_the_type_and_floating_point_files_are_not_rounded(tmp_path: Path) -> None:
    bytes_ = read_volume(write(tmp_path / "case.mha", np.uint8))
    path = save_adversarial_volume(bytes_.image + 5.0, bytes_, tmp_path / "byte_adversarial.mha", epsilon=5.0)
    wanted = (bytes_.image.as_tensor() + 5.0).clamp(0, 255)
    assert torch.equal(read_volume(path).image.as_tensor(), wanted)
    real = read_volume(write(tmp_path / "case.nrrd", np.float32))
    path = save_adversarial_volume(real.image + 0.123, real, tmp_path / "real_adversarial.nrrd")
    assert torch.equal(read_volume(path).image.as_tensor(), real.image.as_tensor() + 0.123)


@pytest.mark.parametrize(
    ("name", "scale", "message"),
    [
        ("case.nrrd", 1.0, "must name the file as adversarial"),
        ("case_adversarial.mhd", 1.0, "must end in .nrrd or .mha"),
        ("case_adversarial.nrrd", 1e-3, "not in a network's values"),
        ("case_adversarial.nrrd", float("nan"), "must be finite"),
    ],
)
def test_what_is_no_image_of_the_scan_is_refused(tmp_path: Path, name: str, scale: float, message: str) -> None:
    volume = read_volume(write(tmp_path / "case.nrrd"))
    before = volume.file.read_bytes()
    with pytest.raises(ValueError, match=message):
        save_adversarial_volume(volume.image.as_tensor() * scale, volume, tmp_path / name)
    assert os.listdir(tmp_path) == ["case.nrrd"] and volume.file.read_bytes() == before


def test_a_source_is_never_written_over(tmp_path: Path) -> None:
    volume = read_volume(write(tmp_path / "an_adversarial.nrrd"))
    with pytest.raises(ValueError, match="must not be the source's file"):
        save_adversarial_volume(volume.image, volume, tmp_path / "an_adversarial.nrrd")


@pytest.mark.parametrize(
    ("name", "removed"), [("case.nrrd", b"space: left-posterior-superior\n"), ("case.mha", b"TransformMatrix = ")]
)
def test_a_file_that_says_nothing_of_its_orientation_is_refused(tmp_path: Path, name: str, removed: bytes) -> None:
    path = write(tmp_path / name)
    lines = path.read_bytes().splitlines(keepends=True)
    text = ("space", "ElementSpacing") if name.endswith("nrrd") else ("TransformMatrix", "AnatomicalOrientation")
    path.write_bytes(b"".join(line for line in lines if not line.startswith(tuple(t.encode() for t in text))))
    assert removed not in path.read_bytes()
    with pytest.raises(ValueError, match="does not say how its voxels lie in space"):
        read_volume(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no image file"):
        read_volume(tmp_path / "absent.nrrd")
    with pytest.raises(ValueError, match="must end in one of .nrrd, .nhdr, .mha, .mhd"):
        read_volume(tmp_path / "a.png")
    (tmp_path / "broken.nrrd").write_bytes(b"no volume")
    with pytest.raises(RuntimeError, match="cannot read broken.nrrd"):
        read_volume(tmp_path / "broken.nrrd")
    flat = itk.image_from_array(np.zeros((4, 4), dtype=np.int16))
    itk.imwrite(flat, str(tmp_path / "flat.mha"))
    with pytest.raises(ValueError, match="three dimensions, got 2 dimensions"):
        read_volume(tmp_path / "flat.mha")
