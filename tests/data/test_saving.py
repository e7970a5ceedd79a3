# SPDX-License-Identifier: Apache-2.0
"""Adversarial NIfTI files: space, dtype and budget of the input, marked, whole or not at all."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import EnsureChannelFirst, LoadImage

from monai_adversarial.attacks import PGD, Attack, BiasFieldAttack, ElasticAttack
from monai_adversarial.attacks.perturbations import AdditiveNoise, BudgetError, Chain, ElasticDeformation
from monai_adversarial.data import saving
from monai_adversarial.data.saving import (
    MARK,
    read_back,
    read_reference,
    round_to_stored,
    save_adversarial_nifti,
    save_label_nifti,
    stored_grid,
    volume_name,
)
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.stored_grid import StoredGrid
from tests.helpers import tiny_segmentation_network

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


INTEGERS = ["int8", "uint8", "int16", ">i2", "uint16", "int32", "uint32", "int64", "uint64"]
SCALINGS = [
    (1.0, 0.0),
    (2.0, -100.0),
    (0.5, 0.25),
    (1e-3, 3.3),
    (-1.0, 5.0),
    (37.5, -1024.0),
    (1e30, 0.0),
    (1e-30, 0.0),
]


def write_scaled(path: Path, dtype: str, slope: float, intercept: float) -> Path:
    """A file from somewhere else: any type and any scaling in the header's bytes, both ends of an integer type used."""
    kind = np.dtype(dtype)
    stored = np.random.default_rng(0).integers(0, 100, SHAPE).astype(kind)
    if kind.kind in "iu":
        stored.flat[:2] = np.iinfo(kind).min, np.iinfo(kind).max
    header = nibabel.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(kind)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4), header), path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([slope, intercept]).astype(f"{'>' if dtype.startswith('>') else '<'}f4").tobytes()
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("scaling", [*SCALINGS, (0.0, 0.0), (float("nan"), float("nan")), (float("inf"), 0.0)])
@pytest.mark.parametrize("dtype", [*INTEGERS, "float32", ">f4", "float64"])
def test_every_type_and_scaling_is_saved_inside_the_budget(
    tmp_path: Path, dtype: str, scaling: tuple[float, float]
) -> None:
    source = write_scaled(tmp_path / "case.nii", dtype, *scaling)
    clean = read_back(source).as_tensor()
    if not bool(torch.isfinite(clean).all()):  # a float32 image cannot hold this file at all
        with pytest.raises(ValueError, match="must be finite"):
            save_adversarial_nifti(clean, source, tmp_path / "a_adversarial.nii", clean=clean)
        return
    grid = stored_grid(source)
    assert (grid is None) == dtype.endswith(("f4", "float32", "float64"))
    step = 0.1 if grid is None else grid.step
    path = save_adversarial_nifti(
        clean + 3.2 * step, source, tmp_path / "a_adversarial.nii", clean=clean, epsilon=3.2 * step
    )
    before, after = nibabel.load(source), nibabel.load(path)
    assert after.get_data_dtype() == before.get_data_dtype()
    scaled = (1.0, 0.0) if grid is None else (before.dataobj.slope, before.dataobj.inter)  # floats need none
    assert (after.dataobj.slope, after.dataobj.inter) == scaled
    stored = [np.asarray(image.dataobj.get_unscaled()) for image in (before, after)]
    if grid is None:
        resolution = float(clean.abs().max()) * 1e-6
        assert float((read_back(path).as_tensor() - clean - 0.32).abs().max()) <= resolution + 1e-6
    elif np.dtype(dtype).itemsize <= 2:  # what float32 can name
        # Voxels go three steps up, unless their type ends there.
        ends = np.iinfo(np.dtype(dtype))
        change = stored[1].astype(np.int64) - stored[0].astype(np.int64)
        wanted = np.clip(stored[0].astype(np.int64) + (3 if scaling[0] != -1.0 else -3), ends.min, ends.max)
        assert np.array_equal(change, wanted - stored[0].astype(np.int64))
    assert stored[1].dtype == stored[0].dtype


def test_a_scaling_that_no_reader_understands_is_one_sentence(tmp_path: Path) -> None:
    source = write_scaled(tmp_path / "case.nii", "int16", 1.0, float("nan"))
    for read in (read_reference, read_back, stored_grid):
        with pytest.raises(RuntimeError, match=r"cannot read .*case.nii as NIfTI: .*intercept") as caught:
            read(source)
        assert "\n" not in str(caught.value)


def test_a_scaling_that_nifti_cannot_hold_is_one_sentence(tmp_path: Path) -> None:
    source = write_input(tmp_path / "case.nii.gz")

    class Scaled:
        slope, inter = 1e39, 0.0  # more than the header's float32

        def __array__(self, *_: object, **__: object) -> np.ndarray:
            return np.zeros(SHAPE)

    class Reference:
        def __init__(self) -> None:
            image = nibabel.load(source)
            self.dataobj, self.header, self.shape, self.affine = Scaled(), image.header, image.shape, image.affine

        def get_data_dtype(self) -> np.dtype:
            return np.dtype(np.int16)

    with pytest.raises(ValueError, match=r"NIfTI cannot hold int16 voxels with the scaling 1e\+39 \* stored \+ 0"):
        save_adversarial_nifti(read_back(source), Reference(), tmp_path / "a_adversarial.nii.gz")
    assert not list(tmp_path.glob("*adversarial*"))


@pytest.mark.parametrize(
    ("dtype", "scaling", "grid"),
    [
        ("uint8", (1.0, 0.0), StoredGrid(1.0, 0.0, 0.0, 255.0)),
        ("int16", (0.5, 3.0), StoredGrid(0.5, 3.0, -16381.0, 16386.5)),
        ("uint8", (-1.0, 5.0), StoredGrid(1.0, 5.0, -250.0, 5.0)),
        ("float32", (2.0, 1.0), None),
    ],
)
def test_the_values_of_a_file(tmp_path: Path, dtype: str, scaling: tuple[float, float], grid: StoredGrid) -> None:
    source = write_scaled(tmp_path / "case.nii", dtype, *scaling)
    assert stored_grid(source) == grid == stored_grid(read_reference(source))


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("dtype", "low", "high"), [("uint8", 0, 255), ("int16", -1000, 32767), ("uint16", 0, 3000)])
@pytest.mark.parametrize("kind", ["pgd", "bias", "elastic", "chain"])
def test_an_attack_on_a_saturated_file_is_never_refused_after_the_work(
    tmp_path: Path, dtype: str, low: int, high: int, kind: str, known: bool
) -> None:
    shape = (10, 9, 8)
    voxels = 60 + 40 * np.random.default_rng(0).normal(size=shape)
    voxels[:3], voxels[-2:] = low, high
    source = tmp_path / "case.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels.clip(low, high).astype(dtype), np.eye(4)), source)
    clean = read_back(source)[None]
    attack = {
        "pgd": PGD(8, "HU", steps=2),
        "bias": BiasFieldAttack(0.3, domain="image", steps=2),
        "elastic": ElasticAttack(2.0, control_spacing=8.0, steps=2),
        "chain": Attack(Chain([ElasticDeformation(2.0, 8.0), AdditiveNoise(8.0, units="HU")]), steps=2),
    }[kind]
    model = AttackedModel(
        tiny_segmentation_network(),
        intensity={"a_min": -160, "a_max": 240},
        image_units="HU",
        round_to_integer=not known,
        stored_grid=stored_grid(source) if known else None,
    )
    result = attack(model, clean, (clean > 60).long())
    if known:
        ends = np.iinfo(dtype)
        assert float(result.adversarial.min()) >= ends.min and float(result.adversarial.max()) <= ends.max
    path = save_adversarial_nifti(result.adversarial, source, tmp_path / "case_adversarial.nii.gz", clean=clean)
    saved = read_back(path)[None]
    if known:
        assert torch.equal(saved.as_tensor(), torch.as_tensor(result.adversarial))
    if known or kind != "bias":  # a field that does not know the file's end is not explained there
        result.verify(saved, rounding=0.5)


def test_values_that_are_cut_at_the_end_of_the_type_are_said(tmp_path: Path) -> None:
    source, path = tmp_path / "case.nii.gz", tmp_path / "case_adversarial.nii.gz"
    voxels = np.full((4, 4, 4), 250, dtype=np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), source)
    clean = read_back(source)[None]
    changed = clean.as_tensor() + 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_adversarial_nifti(changed, source, path, clean=clean)
    changed[..., 0] += 3
    with pytest.warns(UserWarning, match="16 of 64 voxels lie beyond what the file's uint8 holds and are cut there"):
        save_adversarial_nifti(changed, source, path, clean=clean)
    assert float(read_back(path).max()) == 255.0


@pytest.mark.parametrize("scaling", [(1.0, 0.0), (2.0, -1024.0), (0.5, 0.25), (37.5, -1024.0)])
@pytest.mark.parametrize("kind", ["pgd", "bias", "elastic"])
def test_an_attack_rounds_once_to_the_grid_of_a_scaled_file(
    tmp_path: Path, kind: str, scaling: tuple[float, float]
) -> None:
    source = write_input(tmp_path / "case.nii.gz", slope=scaling[0], intercept=scaling[1])
    clean = read_back(source)[None]
    attack = {
        "pgd": PGD(80, "HU", steps=2),
        "bias": BiasFieldAttack(0.3, steps=2),
        "elastic": ElasticAttack(2.0, control_spacing=8.0, steps=2),
    }[kind]
    model = AttackedModel(
        tiny_segmentation_network(),
        intensity={"a_min": -1000, "a_max": 2400},
        image_units="HU",
        stored_grid=stored_grid(source),
    )
    result = attack(model, clean, (clean > 60).long())
    path = save_adversarial_nifti(result.adversarial, source, tmp_path / "case_adversarial.nii.gz", clean=clean)
    assert torch.equal(read_back(path)[None].as_tensor(), torch.as_tensor(result.adversarial))
    result.verify(read_back(path)[None])
    assert not torch.equal(torch.as_tensor(result.adversarial), clean.as_tensor())


def test_a_bias_field_on_a_floating_point_file_is_judged_with_the_rounding_it_had(tmp_path: Path) -> None:
    voxels = (60 + 90 * np.random.default_rng(0).normal(size=(10, 9, 8))).astype(np.float32)
    voxels.flat[:50] = -159.9993  # just above the floor of the window
    source = tmp_path / "case.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), source)
    clean = read_back(source)[None]
    model = AttackedModel(
        tiny_segmentation_network(),
        intensity={"a_min": -160, "a_max": 240},
        image_units="HU",
        round_to_integer=True,
    )
    result = BiasFieldAttack(0.3, zero_mean=True, steps=2)(model, clean, (clean > 60).long())
    path = save_adversarial_nifti(result.adversarial, source, tmp_path / "case_adversarial.nii.gz", clean=clean)
    saved = read_back(path)[None]
    assert torch.equal(saved.as_tensor(), torch.as_tensor(result.adversarial))
    measured = result.verify(saved)["gain"]  # the file itself rounds nothing
    assert float(measured.values[0]) <= 30 * (1 + 1e-4)
    with pytest.raises(BudgetError):
        result.verify(saved + 2)


def test_a_model_with_the_grid_of_another_file_is_refused_before_the_work() -> None:
    image = torch.rand(1, 1, 6, 6, 6) * 900 - 400
    options = {"intensity": {"a_min": -160, "a_max": 240}, "image_units": "HU"}
    model = AttackedModel(tiny_segmentation_network(), stored_grid=StoredGrid(low=0, high=255), **options)
    with pytest.raises(ValueError, match=r"stored_grid holds 0 to 255, but the image's values lie within -"):
        PGD(8, "HU")(model, image, (image > 0).long())
    with pytest.raises(TypeError, match="stored_grid must be a StoredGrid"):
        AttackedModel(tiny_segmentation_network(), stored_grid=(0, 255), **options)
    with pytest.raises(ValueError, match="stored_grid needs images in HU"):
        AttackedModel(tiny_segmentation_network(), stored_grid=StoredGrid())
