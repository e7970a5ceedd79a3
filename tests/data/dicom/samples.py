# SPDX-License-Identifier: Apache-2.0
"""Small synthetic CT series, as files of one slice and as enhanced files. No patient is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

CT_IMAGE = UID("1.2.840.10008.5.1.4.1.1.2")
ENHANCED_CT = UID("1.2.840.10008.5.1.4.1.1.2.1")
PATIENT = "Doe^Jane"

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
# Rotated by some degrees about all axes, with the six digits that scanners write.
OBLIQUE = (0.979283, 0.198510, 0.039989, -0.202495, 0.958952, 0.198510)


def orthonormal(orientation: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit directions of columns, rows and slices of an orientation with rounded digits."""
    along_row = np.array(orientation[:3]) / np.linalg.norm(orientation[:3])
    along_column = np.array(orientation[3:]) - along_row * (along_row @ np.array(orientation[3:]))
    along_column /= np.linalg.norm(along_column)
    return along_row, along_column, np.cross(along_row, along_column)


def stored_volume(slices: int = 5, rows: int = 12, columns: int = 10, seed: int = 0, signed: bool = True) -> np.ndarray:
    """Stored values (slice, row, column) inside 12 bits, with an edge that shows a flip along every axis."""
    values = np.random.default_rng(seed).integers(0, 900, (slices, rows, columns))
    values[0] += 200
    values[:, 0] += 300
    values[:, :, 0] += 500
    return values.astype(np.int16 if signed else np.uint16)


def decimal(value: float) -> str:
    """A number in the 16 characters of a decimal string."""
    return pydicom.valuerep.format_number_as_ds(float(value))


def common(dataset: Dataset, modality: str = "CT") -> Dataset:
    """What every object says of its patient, study and equipment."""
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.StudyDate, dataset.StudyTime = "20200102", "101112"
    dataset.ContentDate, dataset.ContentTime = "20200102", "101112"
    dataset.AccessionNumber = "A1"
    dataset.Modality = modality
    dataset.Manufacturer, dataset.ManufacturerModelName = "Phantom", "Sample"
    dataset.InstitutionName = "Doe Hospital"
    dataset.ReferringPhysicianName = "Doe^John"
    dataset.PatientName, dataset.PatientID = PATIENT, "JD1"
    dataset.PatientBirthDate, dataset.PatientSex = "19500101", "F"
    dataset.StudyID, dataset.SeriesNumber = "1", 2
    dataset.PositionReferenceIndicator = ""
    dataset.BodyPartExamined = "ABDOMEN"
    return dataset


def new_file(sop_class: UID) -> Dataset:
    """A dataset with the file's own header."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    return dataset


def write_series(
    folder: Path,
    stored: np.ndarray | None = None,
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (0.75, 0.5),
    step: float | Sequence[float] = 2.5,
    origin: Sequence[float] = (-40.0, -35.5, 100.25),
    slopes: float | Sequence[float] = 1.0,
    intercept: float = -1024.0,
    bits_stored: int = 16,
    change: Callable[[Dataset, int], Any] | None = None,
    series_uid: str | None = None,
    study_uid: str | None = None,
    frame_of_reference: str | None = None,
) -> Path:
    """Write a series of files of one slice.

    ``step`` is the distance of slices along their normal, or a vector in LPS; ``change(dataset, place)`` may change a
    slice before it is written and return False to leave it out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stored = stored_volume() if stored is None else stored
    normal = orthonormal(orientation)[2]
    vector = normal * step if np.isscalar(step) else np.asarray(step, dtype=float)
    slopes = [slopes] * len(stored) if np.isscalar(slopes) else slopes
    series_uid, study_uid = series_uid or generate_uid(), study_uid or generate_uid()
    frame_of_reference = frame_of_reference or generate_uid()
    for place, pixels in enumerate(stored):
        dataset = common(new_file(CT_IMAGE))
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.SeriesDescription = "Jane's scan"
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study_uid, series_uid
        dataset.FrameOfReferenceUID = frame_of_reference
        dataset.KVP, dataset.SliceThickness, dataset.ConvolutionKernel = "120", "2.5", "B30"
        dataset.PatientPosition = "HFS"
        dataset.AcquisitionNumber, dataset.InstanceNumber = 1, place + 1
        dataset.ImagePositionPatient = [decimal(value) for value in np.array(origin) + place * vector]
        dataset.ImageOrientationPatient = [decimal(value) for value in orientation]
        dataset.PixelSpacing = [decimal(value) for value in spacing]
        dataset.RescaleSlope, dataset.RescaleIntercept = decimal(slopes[place]), decimal(intercept)
        dataset.RescaleType = "HU"
        dataset.WindowCenter, dataset.WindowWidth = "40", "400"
        dataset.set_pixel_data(pixels, "MONOCHROME2", bits_stored, generate_instance_uid=False)
        if change is None or change(dataset, place) is not False:
            dataset.save_as(folder / f"slice_{place:03d}.dcm", enforce_file_format=True)
    return folder


def _item(**attributes: Any) -> list[Dataset]:
    dataset = Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return [dataset]


def write_enhanced(
    file: Path, stored: np.ndarray | None = None, order: Sequence[int] | None = None, slope: float = 1.0
) -> Path:
    """Write an enhanced CT file whose frames lie in ``order``; its grid is that of :func:`write_series`."""
    stored = stored_volume() if stored is None else stored
    order = list(range(len(stored))) if order is None else list(order)
    dataset = common(new_file(ENHANCED_CT))
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.FrameOfReferenceUID = generate_uid()
    dataset.InstanceNumber = 1
    shared = Dataset()
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=list(AXIAL))
    shared.PixelMeasuresSequence = _item(PixelSpacing=[0.75, 0.5], SliceThickness=2.5)
    shared.PixelValueTransformationSequence = _item(RescaleIntercept=-1024, RescaleSlope=slope, RescaleType="HU")
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for place in order:
        groups = Dataset()
        position = [-40.0, -35.5, 100.25 + 2.5 * place]
        groups.PlanePositionSequence = _item(ImagePositionPatient=[decimal(value) for value in position])
        groups.CTImageFrameTypeSequence = _item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
        dataset.PerFrameFunctionalGroupsSequence.append(groups)
    dataset.set_pixel_data(np.ascontiguousarray(stored[order]), "MONOCHROME2", 16, generate_instance_uid=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(file, enforce_file_format=True)
    return file


def expected_hounsfield(stored: np.ndarray, slopes: Any = 1.0, intercept: float = -1024.0) -> np.ndarray:
    """HU (1, column, row, slice) of stored values (slice, row, column)."""
    slopes = np.broadcast_to(np.asarray(slopes, dtype=float), len(stored))
    values = stored * slopes[:, None, None] + intercept
    return values.transpose(2, 1, 0)[None].astype(np.float32)
