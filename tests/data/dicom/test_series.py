# SPDX-License-Identifier: Apache-2.0
"""CT series as volumes: voxels and positions of the files, and one sentence for what is no grid of HU."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

pydicom = pytest.importorskip("pydicom")

from monai_adversarial.data.dicom import CTSeriesReader, read_series  # noqa: E402
from monai_adversarial.data.dicom.geometry import LPS_TO_RAS  # noqa: E402
from monai_adversarial.utils.stored_grid import StoredGrid  # noqa: E402
from tests.data.dicom.samples import (  # noqa: E402
    AXIAL,
    OBLIQUE,
    expected_hounsfield,
    orthonormal,
    stored_volume,
    write_enhanced,
    write_series,
)

TILTED = (1.0, 0.0, 0.0, 0.0, float(np.cos(np.deg2rad(15.0))), -float(np.sin(np.deg2rad(15.0))))


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_every_voxel_lies_where_the_header_of_its_slice_says(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    origin, spacing, step = np.array([-40.0, -35.5, 100.25]), (0.75, 0.5), 2.5
    series = read_series(write_series(tmp_path / "s", orientation=orientation, spacing=spacing, step=step))
    assert tuple(series.image.shape) == (1, 10, 12, 5) and series.image.dtype == torch.float32
    assert np.array_equal(series.image.numpy(), expected_hounsfield(stored_volume()))
    normal = orthonormal(orientation)[2]
    for column, row, place in [(0, 0, 0), (9, 0, 0), (0, 11, 0), (9, 11, 4)]:
        along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
        wanted = origin + column * spacing[1] * along_row + row * spacing[0] * along_column + place * step * normal
        found = series.affine.numpy() @ [column, row, place, 1.0]
        assert np.allclose(found[:3], wanted * [-1.0, -1.0, 1.0], atol=1e-9)
    assert series.notes == ()


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLSLossless", "DeflatedExplicitVRLittleEndian"])
def test_compressed_files_hold_the_same_voxels(tmp_path: Path, syntax: str) -> None:
    uid = getattr(pydicom.uid, syntax)
    if uid.is_compressed and uid.is_encapsulated and not pydicom.pixels.get_encoder(uid).is_available:
        pytest.skip(f"there is no encoder for {syntax}")

    def compress(dataset: Any, place: int) -> None:
        if uid.is_encapsulated:
            dataset.compress(uid, generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = uid

    stored = stored_volume(signed=False)
    series = read_series(write_series(tmp_path / "s", stored, change=compress))
    assert np.array_equal(series.image.numpy(), expected_hounsfield(stored))


def test_jpeg_2000_files_hold_the_values_that_were_compressed(tmp_path: Path) -> None:
    packed, plain = (
        pydicom.dcmread(pydicom.data.get_testdata_file(name, download=False))
        for name in ("MR_small_jp2klossless.dcm", "MR_small.dcm")
    )
    if not pydicom.pixels.get_decoder(packed.file_meta.TransferSyntaxUID).is_available:
        pytest.skip("there is no decoder for JPEG 2000")
    wanted = plain.pixel_array

    def compress(dataset: Any, place: int) -> None:
        dataset.PixelData = packed.PixelData
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID

    series = read_series(write_series(tmp_path / "s", np.stack([wanted, wanted]), change=compress))
    assert np.array_equal(series.image.numpy(), expected_hounsfield(np.stack([wanted, wanted])))


def test_a_compression_without_a_decoder_is_named(tmp_path: Path) -> None:
    def htj2k(dataset: Any, place: int) -> None:
        dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51"])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000MCLossless

    write_series(tmp_path / "s", change=htj2k)
    with pytest.raises(RuntimeError, match="compressed as JPEG 2000 Part 2 .*no decoder here"):
        read_series(tmp_path / "s")


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [4, 2, 0, 1, 3]], ids=["in order", "shuffled"])
def test_an_enhanced_file_is_the_same_volume_as_files_of_one_slice(tmp_path: Path, order: list[int]) -> None:
    slices = read_series(write_series(tmp_path / "s"))
    enhanced = read_series(write_enhanced(tmp_path / "e" / "all.dcm", order=order))
    assert torch.equal(enhanced.image.as_tensor(), slices.image.as_tensor())
    assert torch.equal(enhanced.affine, slices.affine)
    assert read_series(tmp_path / "e" / "all.dcm").image.shape == enhanced.image.shape


def renumber(*numbers: int | None) -> Callable[[Any, int], None]:
    def change(dataset: Any, place: int) -> None:
        if numbers[place] is None:
            del dataset.InstanceNumber
        else:
            dataset.InstanceNumber = numbers[place]

    return change


@pytest.mark.parametrize(
    ("numbers", "note"),
    [
        ((5, 4, 3, 2, 1), "run against the slices' normal"),
        ((3, 1, 2, 5, 4), "do not follow the positions"),
        ((1, 1, 1, 1, 1), "instance numbers repeat"),
        ((1, None, 3, 4, 5), "1 of 5 slices have no instance number"),
    ],
)
def test_instance_numbers_change_nothing_and_are_noted(tmp_path: Path, numbers: tuple, note: str) -> None:
    plain = read_series(write_series(tmp_path / "plain"))
    series = read_series(write_series(tmp_path / "s", change=renumber(*numbers)))
    assert torch.equal(series.image.as_tensor(), plain.image.as_tensor()) and torch.equal(series.affine, plain.affine)
    assert len(series.notes) == 1 and note in series.notes[0]


def test_the_order_of_files_and_their_names_change_nothing(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", orientation=OBLIQUE)
    series = read_series(sorted(folder.glob("*.dcm"), reverse=True))
    plain = read_series(folder)
    assert torch.equal(series.image.as_tensor(), plain.image.as_tensor()) and torch.equal(series.affine, plain.affine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, k: k != 2, r"1 slice\(s\) are missing: between s/slice_001.dcm and s/slice_003.dcm are 5.000 mm"),
        (
            lambda d, k: setattr(d, "ImagePositionPatient", [-40, -35.5, 105.25]) if k == 3 else None,
            "1 of the slices are doubled: s/slice_002.dcm and s/slice_003.dcm",
        ),
        (
            lambda d, k: setattr(d, "ImagePositionPatient", [-40, -35.5, 100.25 + 2.5 * k + 0.5 * (k == 2)]),
            "not evenly spaced",
        ),
        (
            lambda d, k: setattr(d, "ImagePositionPatient", [-40 + 2.0 * (k == 2), -35.5, 100.25 + 2.5 * k]),
            "s/slice_002.dcm is 2.000 mm from its place",
        ),
        (
            lambda d, k: setattr(d, "ImageOrientationPatient", list(OBLIQUE)) if k == 1 else None,
            "differ in orientation",
        ),
        (lambda d, k: setattr(d, "ImageOrientationPatient", [1, 0, 0, 1, 0, 0]), "two perpendicular directions"),
        (lambda d, k: setattr(d, "PixelSpacing", [0.75, 0.6]) if k == 1 else None, "differ in pixel spacing"),
        (lambda d, k: setattr(d, "PixelSpacing", [0.75, 0.0]), "above 0 mm"),
        (lambda d, k: d.__delattr__("PixelSpacing") if k == 1 else None, "slice_001.dcm has no PixelSpacing"),
        (lambda d, k: d.__delattr__("ImagePositionPatient"), "has no ImagePositionPatient"),
        (lambda d, k: d.__delattr__("RescaleSlope"), "no RescaleSlope: its stored values cannot be turned into HU"),
        (lambda d, k: setattr(d, "RescaleSlope", 0), "RescaleSlope of 0"),
        (lambda d, k: setattr(d, "RescaleType", "ED"), "scaled to 'ED'"),
        (lambda d, k: setattr(d, "Modality", "MR"), "has the modality MR, not CT"),
        (lambda d, k: setattr(d, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.7"), "Secondary Capture .*holds no CT volume"),
        (lambda d, k: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]), "is a localizer"),
        (lambda d, k: setattr(d, "PhotometricInterpretation", "PALETTE COLOR"), "palette"),
        (lambda d, k: d.__delattr__("PixelRepresentation"), "whether its values are signed is not guessed"),
        (lambda d, k: setattr(d, "HighBit", 14), "HighBit 14"),
        (lambda d, k: setattr(d, "FrameOfReferenceUID", f"1.2.{k + 1}"), "different frames of reference"),
        (lambda d, k: setattr(d, "SeriesInstanceUID", f"1.2.{k // 3 + 1}"), r"2 series: 1.2.1 \(3 slices"),
        (lambda d, k: d.__delattr__("SeriesInstanceUID"), "no SeriesInstanceUID"),
        (lambda d, k: k == 0, "is a single slice"),
    ],
)
def test_what_is_no_grid_of_hounsfield_units_is_refused_in_one_sentence(
    tmp_path: Path, change: Callable, message: str
) -> None:
    folder = write_series(tmp_path / "s", change=change)
    with pytest.raises(ValueError, match=message) as caught:
        read_series(folder)
    assert str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_several_acquisitions_in_a_series_are_named(tmp_path: Path) -> None:
    def phases(dataset: Any, place: int) -> None:
        dataset.AcquisitionNumber = 1 + place % 2
        dataset.ImagePositionPatient = [-40, -35.5, 2.5 * (place // 2)]

    with pytest.raises(ValueError, match="doubled.*acquisitions 1, 2, give the files of one"):
        read_series(write_series(tmp_path / "s", stored_volume(6), change=phases))


def test_slices_of_different_size_are_refused(tmp_path: Path) -> None:
    def crop(dataset: Any, place: int) -> None:
        if place == 4:
            dataset.set_pixel_data(stored_volume(1, 8, 10)[0], "MONOCHROME2", 16)

    with pytest.raises(ValueError, match="differ in size.*10 x 12 pixels.*10 x 8"):
        read_series(write_series(tmp_path / "s", change=crop))


def test_gantry_tilt_is_refused_and_on_request_the_affine_is_sheared(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", orientation=TILTED, step=(0.0, 0.0, 2.5))
    with pytest.raises(ValueError, match="15.00 degrees to their normal"):
        read_series(folder)
    series = read_series(folder, gantry_tilt="shear")
    assert np.array_equal(series.image.numpy(), expected_hounsfield(stored_volume()))
    assert np.allclose(LPS_TO_RAS @ series.affine.numpy() @ [0, 0, 4, 1], [-40.0, -35.5, 110.25, 1.0])
    assert any("sheared by a gantry tilt of 15.00 degrees" in note for note in series.notes)
    with pytest.raises(ValueError, match="gantry_tilt must be one of 'refuse', 'shear'"):
        read_series(folder, gantry_tilt="ignore")


def test_a_stated_tilt_that_positions_do_not_show_is_noted(tmp_path: Path) -> None:
    series = read_series(write_series(tmp_path / "s", change=lambda d, k: setattr(d, "GantryDetectorTilt", "12")))
    assert "states a gantry tilt of 12 degrees" in series.notes[0]


def test_rounded_positions_are_a_grid_and_noted(tmp_path: Path) -> None:
    def rounded(dataset: Any, place: int) -> None:
        dataset.ImagePositionPatient = [-40, -35.5, f"{100.25 + 0.625 * place:.2f}"]

    series = read_series(write_series(tmp_path / "s", change=rounded))
    assert "positions are rounded" in series.notes[0]


def test_overlong_decimal_strings_are_read_in_full_and_noted_without_warnings(tmp_path: Path) -> None:
    def overlong(dataset: Any, place: int) -> None:
        dataset.ImagePositionPatient = ["-40.0000000000000001", "-35.5000000000000001", f"{100.25 + 2.5 * place:.18f}"]

    with pydicom.config.disable_value_validation():
        folder = write_series(tmp_path / "s", change=overlong)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        series = read_series(folder)
    assert series.notes[0].startswith("ImagePositionPatient: decimal strings of more than the 16 characters")
    assert torch.allclose(series.affine, read_series(write_series(tmp_path / "plain")).affine, atol=1e-12)


@pytest.mark.parametrize("text", ["nan", "1,5", "inf"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    def bad(dataset: Any, place: int) -> None:
        element = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag("RescaleIntercept"), "DS", len(text), text.encode(), 0, False, True
        )
        dataset[element.tag] = element

    with pytest.raises(ValueError, match=f"RescaleIntercept of s/slice_000.dcm must hold 1 finite number.*{text}"):
        read_series(write_series(tmp_path / "s", change=bad))


def test_each_slice_keeps_its_own_grid_of_stored_values(tmp_path: Path) -> None:
    slopes = [1.0, 0.5, 0.25, 0.37251, 2.0]
    series = read_series(write_series(tmp_path / "s", slopes=slopes, bits_stored=12, intercept=-1000.0))
    assert np.allclose(series.image.numpy(), expected_hounsfield(stored_volume(), slopes, -1000.0), rtol=1e-6)
    assert series.stored_grid is None
    assert series.slice_grids[1] == StoredGrid(0.5, -1000.0, -2048 * 0.5 - 1000.0, 2047 * 0.5 - 1000.0)
    assert "5 different scalings" in series.notes[0]


def test_one_grid_of_all_slices_is_one_for_the_attacked_model(tmp_path: Path) -> None:
    series = read_series(write_series(tmp_path / "s", stored_volume(signed=False), slopes=0.5, bits_stored=12))
    assert series.stored_grid == StoredGrid(0.5, -1024.0, -1024.0, 4095 * 0.5 - 1024.0)


def test_values_that_float32_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="finer than float32"):
        read_series(write_series(tmp_path / "s", slopes=1e-5, intercept=-1024.0))


def test_values_that_do_not_fit_in_the_stated_bits_are_refused_and_not_cut_off(tmp_path: Path) -> None:
    def too_few_bits(dataset: Any, place: int) -> None:
        dataset.BitsStored, dataset.HighBit = 8, 7

    with pytest.raises(ValueError, match="pixels of s/slice_000.dcm do not fit in the 8 bits"):
        read_series(write_series(tmp_path / "s", stored_volume(signed=False), change=too_few_bits))


@pytest.mark.parametrize("extended", [True, False])
def test_negative_values_of_12_bits_are_read_with_and_without_copies_of_their_sign(
    tmp_path: Path, extended: bool
) -> None:
    def unextended(dataset: Any, place: int) -> None:
        if not extended:
            dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") & 0x0FFF).astype("<u2").tobytes()

    stored = stored_volume() - 500
    series = read_series(write_series(tmp_path / "s", stored, bits_stored=12, change=unextended))
    assert np.array_equal(series.image.numpy(), expected_hounsfield(stored))


def test_a_declared_overlay_in_the_spare_bits_is_no_value(tmp_path: Path) -> None:
    def overlay(dataset: Any, place: int) -> None:
        dataset.add_new(0x60000102, "US", 12)
        dataset.PixelData = (np.frombuffer(dataset.PixelData, "<u2") | 0x1000).astype("<u2").tobytes()

    stored = stored_volume(signed=False)
    series = read_series(write_series(tmp_path / "s", stored, bits_stored=12, change=overlay))
    assert np.array_equal(series.image.numpy(), expected_hounsfield(stored))


def test_padding_outside_the_field_of_view_is_counted(tmp_path: Path) -> None:
    stored = stored_volume()
    stored[:, :2] = -2000
    series = read_series(
        write_series(tmp_path / "s", stored, change=lambda d, k: setattr(d, "PixelPaddingValue", -2000))
    )
    assert f"{5 * 2 * 10} voxels hold the padding value" in series.notes[0]


def test_labels_beside_the_slices_are_passed_over(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s")
    dataset = pydicom.dcmread(folder / "slice_000.dcm")
    dataset.Modality = "RTSTRUCT"
    dataset.save_as(folder / "a_label.dcm")
    (folder / "notes.txt").write_text("no DICOM")
    assert read_series(folder).image.shape[-1] == 5


@pytest.mark.parametrize("damage", ["cut header", "cut pixels", "text"])
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    folder = write_series(tmp_path / "s")
    file = folder / "slice_002.dcm"
    content = file.read_bytes()
    file.write_bytes({"cut header": content[:400], "cut pixels": content[:-100], "text": b"no DICOM"}[damage])
    with pytest.raises((RuntimeError, ValueError), match="slice_002.dcm") as caught:
        read_series(folder)
    assert "\n" not in str(caught.value)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder or DICOM file"):
        read_series(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no DICOM files"):
        read_series(tmp_path)


def test_the_reader_loads_a_series_in_a_pipeline_of_monai(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", orientation=OBLIQUE)
    load = Compose([LoadImaged("image", reader=CTSeriesReader(), image_only=True), EnsureChannelFirstd("image")])
    loaded, series = load({"image": str(folder)})["image"], read_series(folder)
    assert torch.equal(loaded.as_tensor(), series.image.as_tensor())
    assert torch.allclose(loaded.affine, series.affine)
    files = load({"image": sorted(str(file) for file in folder.iterdir())})["image"]
    assert torch.equal(files.as_tensor(), series.image.as_tensor())
    assert "Doe" not in str(loaded.meta) and "Jane" not in str(loaded.meta)


@pytest.mark.parametrize("kind", ["slices", "enhanced"])
def test_a_file_that_ends_too_early_is_one_sentence_wherever_it_ends(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "s" / "slice_002.dcm"
    if kind == "slices":
        write_series(tmp_path / "s")
    else:
        write_enhanced(file)
    content = file.read_bytes()
    for end in range(1, len(content), len(content) // 25):
        file.write_bytes(content[:end])
        with pytest.raises((RuntimeError, ValueError)) as caught:
            read_series(tmp_path / "s")
        assert "slice_002.dcm" in str(caught.value) and "\n" not in str(caught.value)
