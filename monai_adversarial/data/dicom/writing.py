# SPDX-License-Identifier: Apache-2.0
"""An adversarial volume as a valid CT series: geometry and stored values of the source, marked, without names."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import monai_adversarial
from monai_adversarial.data.adversarial_voxels import checked_voxels
from monai_adversarial.data.dicom.attributes import IDENTIFYING, TECHNICAL, copy_attributes, decimal_string
from monai_adversarial.data.dicom.frames import Frame
from monai_adversarial.data.dicom.library import open_dicom, pydicom
from monai_adversarial.data.dicom.series import CTSeries, read_series
from monai_adversarial.data.dicom.whole_folder import folder_when_complete
from monai_adversarial.data.saving import round_to_stored
from monai_adversarial.utils.validation import check_flag, check_positive

__all__ = ["NOT_CLINICAL", "save_adversarial_series", "stored_values"]

NOT_CLINICAL = "adversarial, not for clinical use"

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"

# Transfer syntaxes that lose information: what was lost once stays lost in a file that is written uncompressed.
LOSSY = {
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.203",
}


def save_adversarial_series(
    image: torch.Tensor,
    series: CTSeries,
    path: str | os.PathLike[str],
    description: str = "",
    epsilon: float | None = None,
    keep_identifiers: bool = False,
) -> Path:
    """Write an adversarial volume as a CT series of one file per slice, uncompressed.

    Position, orientation, spacing, rescale slope and intercept, bits stored and sign of every slice are those of the
    source; voxels are rounded to the values that the slice can hold, inside the budget. What an attack adds beyond
    the range of the stored bits is cut off there, which only brings a voxel nearer to its clean value. An enhanced
    source becomes a series of one file per slice, too. All UIDs are new, ImageType says DERIVED\\\\SECONDARY,
    SeriesDescription and DerivationDescription say "adversarial, not for clinical use". Only attributes of a list
    (``attributes.TECHNICAL``) are taken over; patient, study and institution are blank. Pixels that show a name
    (burned-in annotation) are not found and not removed. The finished files are read back and compared before the
    folder takes its name.

    >>> import tempfile
    >>> from monai_adversarial.data.dicom import read_series, save_adversarial_series
    >>> from monai_adversarial.data.example_series import write_example_series
    >>> with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as results:
    ...     _ = write_example_series(folder)
    ...     series = read_series(folder)
    ...     saved = save_adversarial_series(series.image + 4, series, f"{results}/adversarial", epsilon=4)
    ...     written = read_series(saved)
    >>> float((written.image - series.image).max()), written.series_uid == series.series_uid
    (4.0, False)

    Args:
        image: voxels in HU on the grid of ``series``, (1, column, row, slice); leading dimensions of 1 are ignored.
        series: the series that the image was made from, as :func:`read_series` returned it.
        path: new folder; its name contains "adversarial". It appears whole or not at all.
        description: short text for DerivationDescription and SeriesDescription, for example the attack.
        epsilon: L-infinity budget in HU that rounding must not leave; None rounds to the nearest value.
        keep_identifiers: take over patient, study, dates and institution (``attributes.IDENTIFYING``), stay in the
            study and frame of reference of the source, and refer to its images.

    Returns:
        The folder.

    Raises:
        FileExistsError: where there is something at ``path``.
        ValueError: for another shape, NaN, an image that is not in HU or leaves ``epsilon``, a path without the mark or
            inside the source's folder, and bits that a CT image cannot have.
        RuntimeError: where the source cannot be read any more or has changed since.
        OSError: where the files cannot be written.
    """
    check_flag("keep_identifiers", keep_identifiers)
    epsilon = None if epsilon is None else check_positive("epsilon", epsilon, allow_zero=True)
    final = Path(path)
    _check_path(final, series)
    slices = stored_values(image, series, epsilon)
    uids = _NewUids()
    # A backslash would make two values of a description.
    text = " ".join("".join(sign if sign.isprintable() and sign != "\\" else " " for sign in str(description)).split())
    with folder_when_complete(final) as folder:
        opened: tuple[Path | None, Any] = (None, None)
        for number, (frame, stored) in enumerate(zip(series.frames, slices, strict=True), start=1):
            if opened[0] != frame.file:
                opened = frame.file, open_dicom(frame.file, stop_before_pixels=True)
            dataset = _slice(opened[1], frame, series, number, text, uids, keep_identifiers)
            dataset.set_pixel_data(stored, frame.photometric, frame.bits_stored, generate_instance_uid=False)
            _save(dataset, folder / f"{number:04d}.dcm")
        _check_written(folder, series, slices)
    return final


def stored_values(image: torch.Tensor, series: CTSeries, epsilon: float | None = None) -> list[np.ndarray]:
    """The stored values (row, column) of each slice that hold ``image``; see :func:`save_adversarial_series`.

    Raises:
        ValueError: for another shape, NaN, an image that is not in HU or leaves ``epsilon``, and bits that a CT image
            cannot have.
    """
    clean = series.image.as_tensor()[0]
    # A finished image may be rounded once more than the budget knows.
    rounding = max(frame.grid.rounding for frame in series.frames)
    voxels = checked_voxels(image, clean, epsilon, rounding)
    slices = []
    for place, frame in enumerate(series.frames):
        if frame.bits_allocated not in (8, 16):
            raise ValueError(f"{frame.name} has pixels of {frame.bits_allocated} bits: a CT image holds 16.")
        # The clean voxels are float32: their stored values are exact.
        original = _hounsfield(_stored(clean[:, :, place].double(), frame), frame)
        rounded = round_to_stored(voxels[:, :, place].double(), original, epsilon, frame.slope, frame.intercept)
        stored = _stored(rounded, frame).clamp(*frame.stored_range).T.numpy()
        kind = f"{'i' if frame.signed else 'u'}{frame.bits_allocated // 8}"
        slices.append(np.ascontiguousarray(stored).astype(f"<{kind}"))
    return slices


def _stored(values: torch.Tensor, frame: Frame) -> torch.Tensor:
    return ((values - frame.intercept) / frame.slope).round()


def _hounsfield(stored: torch.Tensor, frame: Frame) -> torch.Tensor:
    return stored * frame.slope + frame.intercept


def _check_path(final: Path, series: CTSeries) -> None:
    if "adversarial" not in final.name.lower():
        raise ValueError(
            f"path must name the folder as adversarial (for example case_adversarial), got {final.name!r}."
        )
    parents = {frame.file.resolve().parent for frame in series.frames}
    if any(parent == final.resolve() or parent in final.resolve().parents for parent in parents):
        raise ValueError(f"path must lie outside the folder of the source series, got {final}.")


class _NewUids:
    """UIDs of one written series."""

    def __init__(self) -> None:
        generate = pydicom().uid.generate_uid
        self.study, self.series, self.frame_of_reference = (generate(prefix=None) for _ in range(3))


def _slice(
    source: Any, frame: Frame, series: CTSeries, number: int, text: str, uids: _NewUids, keep_identifiers: bool
) -> Any:
    """Everything of a written slice but its pixels."""
    if str(source.get("SOPInstanceUID", "") or "") != frame.instance_uid:
        raise RuntimeError(f"{frame.name} is another image than when the series was read.")
    library = pydicom()
    dataset = library.dataset.Dataset()
    dataset.file_meta = library.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = library.uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = library.uid.UID(CT_IMAGE_STORAGE)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = library.uid.generate_uid(prefix=None)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for empty in _EMPTY:
        setattr(dataset, empty, "")
    copy_attributes(source, dataset, TECHNICAL)
    if frame.index is not None:
        _from_groups(source, frame.index, dataset)
    _blank_or_keep(source, frame, dataset, uids, keep_identifiers)
    if getattr(source, "file_meta", {}).get("TransferSyntaxUID", "") in LOSSY:
        dataset.LossyImageCompression = "01"
    dataset.Modality = "CT"
    dataset.SeriesInstanceUID = uids.series
    dataset.SeriesNumber = _series_number(source)
    dataset.InstanceNumber = number
    dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "ADVERSARIAL"]
    dataset.SeriesDescription = f"ADVERSARIAL, not for clinical use {text}".strip()[:64]
    version = monai_adversarial.__version__
    dataset.DerivationDescription = f"{NOT_CLINICAL}; monai_adversarial {version}; {text}".rstrip("; ")[:1024]
    dataset.ContributingEquipmentSequence = [_equipment(version)]
    dataset.ImagePositionPatient = [decimal_string(value) for value in frame.position]
    dataset.ImageOrientationPatient = [decimal_string(value) for value in frame.orientation]
    dataset.PixelSpacing = [decimal_string(value) for value in frame.spacing]
    dataset.RescaleSlope, dataset.RescaleIntercept = decimal_string(frame.slope), decimal_string(frame.intercept)
    dataset.RescaleType = "HU"
    return dataset


# Type 2 attributes of a CT image: they must be present, but may be empty.
_EMPTY = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "Manufacturer",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "PatientPosition",
    "PositionReferenceIndicator",
    "AcquisitionNumber",
    "SliceThickness",
    "KVP",
)


def _from_groups(source: Any, index: int, dataset: Any) -> None:
    """What the functional groups of an enhanced file say at the top of a file of one slice."""
    for groups in (
        (source.get("SharedFunctionalGroupsSequence", None) or [None])[0],
        (source.PerFrameFunctionalGroupsSequence[index]),
    ):
        for keyword, attributes in _GROUPS.items():
            items = groups.get(keyword, None) if groups is not None else None
            if items:
                copy_attributes(items[0], dataset, attributes)


_GROUPS: dict[str, Sequence[str]] = {
    "PixelMeasuresSequence": ("SliceThickness", "SpacingBetweenSlices"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "CTReconstructionSequence": ("ConvolutionKernel", "ReconstructionDiameter"),
    "CTXRayDetailsSequence": ("KVP", "FilterType", "FocalSpots"),
}


def _blank_or_keep(source: Any, frame: Frame, dataset: Any, uids: _NewUids, keep_identifiers: bool) -> None:
    dataset.StudyInstanceUID = uids.study
    if frame.frame_of_reference:
        dataset.FrameOfReferenceUID = uids.frame_of_reference
    if not dataset.get("BodyPartExamined", "") and "Laterality" not in dataset:
        dataset.Laterality = ""
    if not keep_identifiers:
        dataset.PatientIdentityRemoved = "YES"
        dataset.DeidentificationMethod = "listed technical attributes kept, UIDs replaced"
        return
    copy_attributes(source, dataset, IDENTIFYING)
    image = pydicom().dataset.Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if frame.index is not None:
        image.ReferencedFrameNumber = frame.index + 1
    dataset.SourceImageSequence = [image]


def _series_number(source: Any) -> int:
    """A number that no series of the scanner has in the same study, as a rule."""
    try:
        return 9000 + abs(int(source.get("SeriesNumber", None) or 0)) % 1000
    except (TypeError, ValueError, OverflowError):
        return 9000


def _equipment(version: str) -> Any:
    """What made the image, beside the scanner (PS3.3 C.12.1)."""
    library = pydicom()
    purpose = library.dataset.Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = "109103", "DCM", "Modifying Equipment"
    equipment = library.dataset.Dataset()
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    equipment.Manufacturer = "monai_adversarial"
    equipment.SoftwareVersions = version
    equipment.ContributionDateTime = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d%H%M%S+0000")
    equipment.ContributionDescription = NOT_CLINICAL
    return equipment


def _save(dataset: Any, file: Path) -> None:
    library = pydicom()
    try:
        dataset.save_as(file, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, library.errors.BytesLengthException) as error:
        reason = " ".join(str(error).split())[:200]
        raise RuntimeError(
            f"cannot write {file.name}: an attribute of the source cannot be stored: {reason}."
        ) from error


def _check_written(folder: Path, series: CTSeries, slices: Sequence[np.ndarray]) -> None:
    """Raise unless the files hold the values and lie where the source lies."""
    written = read_series(folder, gantry_tilt="shear")
    for place, (frame, stored) in enumerate(zip(written.frames, slices, strict=True)):
        found = _stored(written.image.as_tensor()[0, :, :, place].double(), frame).T.numpy()
        if not np.array_equal(found, stored):
            raise RuntimeError(f"slice {place + 1} of the written series does not hold the values that it should.")
    off = float((written.affine - series.affine).abs().max())
    if off > 1e-6:
        raise RuntimeError(f"the written series lies {off:g} mm from its source.")
