# SPDX-License-Identifier: Apache-2.0
"""Adversarial series: exact on the files, valid, marked, without names, whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pydicom = pytest.importorskip("pydicom")

from monai_adversarial.attacks import PGD  # noqa: E402
from monai_adversarial.data.dicom import CTSeries, read_series, save_adversarial_series, writing  # noqa: E402
from monai_adversarial.models import AttackedModel  # noqa: E402
from tests.data.dicom.samples import OBLIQUE, stored_volume, write_enhanced, write_series  # noqa: E402
from tests.helpers import LinearNetwork  # noqa: E402

MARKED = "the series is itself marked as adversarial."


def changed(series: CTSeries, epsilon: float = 8.0, seed: int = 0) -> torch.Tensor:
    """Every voxel moved by up to ``epsilon`` HU, many by all of it."""
    noise = torch.empty(series.image.shape).uniform_(-2, 2, generator=torch.Generator().manual_seed(seed))
    return series.image.as_tensor() + epsilon * noise.clamp(-1, 1)


def stored_of(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stored values (slice, row, column), slopes and intercepts of files by height, read with pydicom alone."""
    slices = sorted(
        (pydicom.dcmread(file) for file in folder.iterdir()),
        key=lambda dataset: float(
            np.cross(*np.array(dataset.ImageOrientationPatient).reshape(2, 3)) @ np.array(dataset.ImagePositionPatient)
        ),
    )
    slopes = np.array([float(dataset.RescaleSlope) for dataset in slices])
    intercepts = np.array([float(dataset.RescaleIntercept) for dataset in slices])
    return np.stack([dataset.pixel_array for dataset in slices]).astype(float), slopes, intercepts


@pytest.mark.parametrize(
    "slopes", [1.0, 0.5, [0.37251, 0.81, 1.0, 0.1234567, 3.0], -1.0], ids=["1", "0.5", "per slice", "negative"]
)
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_a_budget_of_8_hu_holds_exactly_on_the_files(tmp_path: Path, slopes: Any, signed: bool) -> None:
    stored = stored_volume(signed=signed) + (0 if signed else 40)
    source = write_series(tmp_path / "s", stored, OBLIQUE, slopes=slopes)
    series = read_series(source)
    folder = save_adversarial_series(changed(series), series, tmp_path / "out_adversarial", epsilon=8.0)
    (clean, slope, intercept), (after, slope_after, intercept_after) = stored_of(source), stored_of(folder)
    assert np.array_equal(slope, slope_after) and np.array_equal(intercept, intercept_after)
    change = (after - clean) * slope[:, None, None]
    assert np.abs(change).max() <= 8.0 + 1e-9 and np.abs(change).max() > 8.0 - 1.5 * np.abs(slope).max()
    again = read_series(folder)
    assert torch.equal(again.affine, series.affine) and again.slice_grids == series.slice_grids
    nearest = changed(series).double() - again.image.as_tensor().double()
    assert float(nearest.abs().max()) < np.abs(slope).max()


def test_stored_values_come_back_exactly_from_a_round_trip(tmp_path: Path) -> None:
    source = write_series(tmp_path / "s", orientation=OBLIQUE, slopes=[0.37251, 0.81, 1.0, 0.1234567, 3.0])
    series = read_series(source)
    again = read_series(save_adversarial_series(series.image, series, tmp_path / "same_adversarial"))
    assert torch.equal(again.image.as_tensor(), series.image.as_tensor()) and torch.equal(again.affine, series.affine)
    assert np.array_equal(stored_of(tmp_path / "same_adversarial")[0], stored_volume())


def test_the_result_of_an_attack_is_what_the_files_hold(tmp_path: Path) -> None:
    series = read_series(write_series(tmp_path / "s", slopes=0.5, bits_stored=12))
    model = AttackedModel(LinearNetwork((-0.01, 0.01), (0.0, 4.0)), image_units="HU", stored_grid=series.stored_grid)
    label = (series.image[None] > -500).long()
    result = PGD(8, units="HU", steps=2)(model, series.image[None].as_tensor(), label.as_tensor())
    folder = save_adversarial_series(result.adversarial[0], series, tmp_path / "out_adversarial", "PGD", epsilon=8.0)
    saved = read_series(folder).image.as_tensor()
    assert torch.equal(saved, result.adversarial[0])
    assert float((saved - series.image.as_tensor()).abs().max()) == 8.0
    result.verify(saved[None])


def test_files_say_that_they_are_adversarial_and_name_nobody(tmp_path: Path) -> None:
    def private(dataset: Any, place: int) -> None:
        dataset.private_block(0x0009, "PHANTOM", create=True).add_new(1, "LO", "Doe in private")
        dataset.ImageComments = "Doe in a comment"
        dataset.OperatorsName = "Doe^Operator"

    source = write_series(tmp_path / "s", change=private)
    series = read_series(source)
    folder = save_adversarial_series(changed(series), series, tmp_path / "out_adversarial", "PGD at 8 HU", epsilon=8.0)
    old = [pydicom.dcmread(file) for file in sorted(source.iterdir())]
    new = [pydicom.dcmread(file) for file in sorted(folder.iterdir())]
    assert [dataset.InstanceNumber for dataset in new] == [1, 2, 3, 4, 5]
    for dataset, file in zip(new, sorted(folder.iterdir()), strict=True):
        assert dataset.ImageType == ["DERIVED", "SECONDARY", "AXIAL", "ADVERSARIAL"]
        assert "adversarial, not for clinical use" in dataset.DerivationDescription
        assert "PGD at 8 HU" in dataset.DerivationDescription and dataset.SeriesDescription.startswith("ADVERSARIAL")
        content = file.read_bytes()
        for identifying in (b"Doe", b"Jane", b"JD1", b"1950", b"20200102", b"A1 "):
            assert identifying not in content
        assert (dataset.PatientName, dataset.PatientID, dataset.StudyDate) == ("", "", "")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        assert not {dataset[keyword].value for dataset in new} & {dataset[keyword].value for dataset in old}
    assert len({dataset.SOPInstanceUID for dataset in new}) == 5
    assert len({(dataset.StudyInstanceUID, dataset.SeriesInstanceUID) for dataset in new}) == 1
    assert read_series(folder).notes == (MARKED,)


def test_identifiers_stay_on_request_and_the_series_points_to_its_source(tmp_path: Path) -> None:
    source = write_series(tmp_path / "s")
    series = read_series(source)
    folder = save_adversarial_series(series.image, series, tmp_path / "out_adversarial", keep_identifiers=True)
    old, new = pydicom.dcmread(source / "slice_000.dcm"), pydicom.dcmread(folder / "0001.dcm")
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate"):
        assert new[keyword].value == old[keyword].value
    assert new.SeriesInstanceUID != old.SeriesInstanceUID and new.SOPInstanceUID != old.SOPInstanceUID
    assert new.SourceImageSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID
    with pytest.raises(ValueError, match="keep_identifiers must be True or False"):
        save_adversarial_series(series.image, series, tmp_path / "b_adversarial", keep_identifiers="no")  # type: ignore


def test_texts_of_other_languages_and_descriptions_with_signs_are_kept_readable(tmp_path: Path) -> None:
    series = read_series(write_series(tmp_path / "s", change=lambda d, k: setattr(d, "PatientName", "Müller^Ärztin")))
    folder = save_adversarial_series(series.image, series, tmp_path / "adversarial", "a\\b\nc ü", keep_identifiers=True)
    written = pydicom.dcmread(folder / "0001.dcm")
    assert written.PatientName == "Müller^Ärztin"
    assert written.SeriesDescription == "ADVERSARIAL, not for clinical use a b c ü"
    assert written.DerivationDescription.endswith("; a b c ü")


def test_compressed_input_is_written_uncompressed_with_new_uids(tmp_path: Path) -> None:
    def compress(dataset: Any, place: int) -> None:
        dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)

    source = write_series(tmp_path / "s", change=compress)
    series = read_series(source)
    folder = save_adversarial_series(changed(series), series, tmp_path / "out_adversarial", epsilon=8.0)
    old, new = pydicom.dcmread(source / "slice_000.dcm"), pydicom.dcmread(folder / "0001.dcm")
    assert old.file_meta.TransferSyntaxUID == pydicom.uid.RLELossless
    assert new.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert new.SOPInstanceUID != old.SOPInstanceUID
    assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID


def test_an_enhanced_file_becomes_a_series_of_one_file_per_slice(tmp_path: Path) -> None:
    series = read_series(write_enhanced(tmp_path / "e" / "all.dcm", order=[4, 2, 0, 1, 3], slope=0.5))
    folder = save_adversarial_series(changed(series), series, tmp_path / "out_adversarial", epsilon=8.0)
    again = read_series(folder)
    assert len(list(folder.iterdir())) == 5 and torch.equal(again.affine, series.affine)
    assert again.stored_grid == series.stored_grid
    assert float((again.image.as_tensor() - series.image.as_tensor()).abs().max()) == 8.0
    assert pydicom.dcmread(folder / "0001.dcm").SliceThickness == 2.5


def test_what_leaves_the_stored_bits_is_cut_off_toward_the_clean_voxel(tmp_path: Path) -> None:
    stored = stored_volume(signed=False)
    stored[:, 4], stored[:, 5] = 0, 4095
    series = read_series(write_series(tmp_path / "s", stored, bits_stored=12))
    image = series.image.as_tensor().clone()
    image[:, :, 4] -= 8.0
    image[:, :, 5] += 8.0
    folder = save_adversarial_series(image, series, tmp_path / "out_adversarial", epsilon=8.0)
    assert torch.equal(read_series(folder).image.as_tensor(), series.image.as_tensor())


def test_inverted_display_and_loss_by_compression_are_kept(tmp_path: Path) -> None:
    def change(dataset: Any, place: int) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.LossyImageCompression = "01"

    series = read_series(write_series(tmp_path / "s", change=change))
    written = pydicom.dcmread(save_adversarial_series(series.image, series, tmp_path / "adversarial") / "0001.dcm")
    assert (written.PhotometricInterpretation, written.LossyImageCompression) == ("MONOCHROME1", "01")


def test_overlong_decimal_strings_are_written_in_16_characters(tmp_path: Path) -> None:
    def overlong(dataset: Any, place: int) -> None:
        dataset.ImagePositionPatient = ["-40.12345678901234567", "-35.5000000000000001", f"{100.25 + 2.5 * place:.18f}"]
        dataset.ReconstructionDiameter = "338.67160000000000001"

    with pydicom.config.disable_value_validation():
        series = read_series(write_series(tmp_path / "s", change=overlong))
    folder = save_adversarial_series(series.image, series, tmp_path / "adversarial")
    again = read_series(folder)
    assert torch.allclose(again.affine, series.affine, atol=1e-6, rtol=0) and again.notes == (MARKED,)
    written = pydicom.dcmread(folder / "0001.dcm")
    texts = [str(value.original_string) for value in (*written.ImagePositionPatient, written.ReconstructionDiameter)]
    assert max(map(len, texts)) <= 16 and float(written.ReconstructionDiameter) == 338.6716


def validator_errors(files: list[Path]) -> Counter[str]:
    """Errors of dciodvfy, an independent validator, by their text."""
    errors: Counter[str] = Counter()
    for file in files:
        answer = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        lines = (answer.stderr + answer.stdout).splitlines()
        assert any("CTImage" in line for line in lines)
        errors.update(line for line in lines if line.startswith("Error"))
    return errors


def a_real_slice(folder: Path) -> Path:
    """Three slices from one of a scanner, which pydicom ships, with its private blocks and padding."""
    folder.mkdir()
    for place in range(3):
        dataset = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        dataset.ImagePositionPatient = [-158.135803, -179.035797, -75.699997 + 5 * place]
        dataset.save_as(folder / f"{place}.dcm")
    return folder


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="there is no dciodvfy (dicom3tools)")
@pytest.mark.parametrize("keep_identifiers", [False, True])
@pytest.mark.parametrize("kind", ["slices", "enhanced", "a scanner's", "compressed"])
def test_an_independent_validator_finds_no_error(tmp_path: Path, kind: str, keep_identifiers: bool) -> None:
    def compress(dataset: Any, place: int) -> None:
        dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)

    make: dict[str, Callable[[], Path]] = {
        "slices": lambda: write_series(tmp_path / "s", orientation=OBLIQUE, slopes=0.37251),
        "enhanced": lambda: write_enhanced(tmp_path / "s" / "all.dcm").parent,
        "a scanner's": lambda: a_real_slice(tmp_path / "s"),
        "compressed": lambda: write_series(tmp_path / "s", change=compress),
    }
    series = read_series(make[kind]())
    folder = save_adversarial_series(
        changed(series), series, tmp_path / "adversarial", "PGD", 8.0, keep_identifiers=keep_identifiers
    )
    assert validator_errors(sorted(folder.iterdir())) == Counter()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda image: image[..., :-1], {}, r"must have the shape \(1, 10, 12, 5\) of the scan, got"),
        (lambda image: image.movedim(-1, 1), {}, r"got \(1, 5, 10, 12\)"),
        (lambda image: image * float("nan"), {}, "must be finite"),
        (lambda image: image / 4000, {}, "give the image in HU, not in a network's values"),
        (lambda image: image / 4000, {"epsilon": 8.0}, "more than epsilon=8"),
        (lambda image: image + 9.0, {"epsilon": 8.0}, "by up to 9 HU, more than epsilon=8"),
        (lambda image: image, {"epsilon": -1.0}, "epsilon must be a finite number >= 0"),
    ],
)
def test_images_that_are_not_the_series_in_hu_are_refused(
    tmp_path: Path, change: Callable, options: dict, message: str
) -> None:
    series = read_series(write_series(tmp_path / "s"))
    with pytest.raises(ValueError, match=message):
        save_adversarial_series(change(series.image.as_tensor()), series, tmp_path / "adversarial", **options)
    assert os.listdir(tmp_path) == ["s"]


def test_nothing_is_written_over_or_into_the_source(tmp_path: Path) -> None:
    source = write_series(tmp_path / "s_adversarial")
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    series = read_series(source)
    with pytest.raises(ValueError, match="outside the folder of the source series"):
        save_adversarial_series(series.image, series, source / "adversarial")
    with pytest.raises(ValueError, match="outside the folder of the source series"):
        save_adversarial_series(series.image, series, source)
    (tmp_path / "other_adversarial").mkdir()
    with pytest.raises(FileExistsError, match="there is something at"):
        save_adversarial_series(series.image, series, tmp_path / "other_adversarial")
    with pytest.raises(ValueError, match="must name the folder as adversarial"):
        save_adversarial_series(series.image, series, tmp_path / "out")
    assert {file.name: file.read_bytes() for file in source.iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["other_adversarial", "s_adversarial"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = read_series(write_series(tmp_path / "s"))
    written = []

    def full(dataset: Any, file: Path) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(file)
        file.write_bytes(b"")

    monkeypatch.setattr(writing, "_save", full)
    with pytest.raises(OSError, match="cannot write .*adversarial: No space left on device"):
        save_adversarial_series(series.image, series, tmp_path / "adversarial")
    assert len(written) == 3 and os.listdir(tmp_path) == ["s"]


def test_a_source_that_has_changed_is_refused(tmp_path: Path) -> None:
    source = write_series(tmp_path / "s")
    series = read_series(source)
    write_series(source)
    with pytest.raises(RuntimeError, match="s/slice_000.dcm is another image than when the series was read"):
        save_adversarial_series(series.image, series, tmp_path / "adversarial")
    shutil.rmtree(source)
    with pytest.raises(FileNotFoundError, match="there is no DICOM file"):
        save_adversarial_series(series.image, series, tmp_path / "adversarial")
    assert os.listdir(tmp_path) == []


def test_wrong_values_on_the_disk_are_found_before_the_folder_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = read_series(write_series(tmp_path / "s"))
    save = writing._save

    def damaged(dataset: Any, file: Path) -> None:
        dataset.PixelData = bytes(len(dataset.PixelData))
        save(dataset, file)

    monkeypatch.setattr(writing, "_save", damaged)
    with pytest.raises(RuntimeError, match="slice 1 of the written series does not hold the values"):
        save_adversarial_series(series.image, series, tmp_path / "adversarial")
    assert os.listdir(tmp_path) == ["s"]
