# SPDX-License-Identifier: Apache-2.0
"""What the headers of a CT series say about each slice, be it a file of its own or a frame of an enhanced file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_adversarial.data.dicom.library import one_sentence, open_dicom, shown_file
from monai_adversarial.utils.stored_grid import StoredGrid

__all__ = [
    "CT_CLASSES",
    "LABEL_MODALITIES",
    "Frame",
    "ct_class_problem",
    "decimal_numbers",
    "decimal_texts",
    "frames_of_file",
    "overlong_decimals",
]

CT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT Image",
    "1.2.840.10008.5.1.4.1.1.2.1": "Enhanced CT Image",
    "1.2.840.10008.5.1.4.1.1.2.2": "Legacy Converted Enhanced CT Image",
}

# Objects that lie beside a series and describe it.
LABEL_MODALITIES = ("RTSTRUCT", "SEG")

# A decimal string (VR DS) holds at most 16 characters.
DECIMAL_STRING = 16


@dataclass(frozen=True)
class Frame:
    """One slice of a CT series as its header describes it.

    Args:
        file: the DICOM file.
        index: number of the frame in an enhanced file, from 0; None in a file of one slice.
        series_uid: SeriesInstanceUID.
        instance_uid: SOPInstanceUID.
        frame_of_reference: FrameOfReferenceUID, empty where there is none.
        rows: height in pixels.
        columns: width in pixels.
        position: center of the first pixel in mm, LPS (ImagePositionPatient).
        orientation: direction of increasing column number and of increasing row number, LPS.
        spacing: distance of rows and distance of columns in mm.
        slope: HU per stored unit.
        intercept: HU of the stored value 0.
        bits_allocated: bits of a pixel in the file.
        bits_stored: bits that hold the value.
        photometric: MONOCHROME2, or MONOCHROME1, which is shown inverted but holds the same HU.
        signed: whether stored values are two's complement.
        instance_number: InstanceNumber, None where it is missing or no number.
        acquisition_number: AcquisitionNumber as text, empty where there is none.
        gantry_tilt: GantryDetectorTilt in degrees as the header states it, 0 where it does not.
        padding: PixelPaddingValue, None where there is none.
        adversarial: whether the header is marked as an adversarial image.
        overlong: attributes whose decimal strings are longer than DICOM allows.
    """

    file: Path
    index: int | None
    series_uid: str
    instance_uid: str
    frame_of_reference: str
    rows: int
    columns: int
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    slope: float
    intercept: float
    bits_allocated: int
    bits_stored: int
    photometric: str
    signed: bool
    instance_number: int | None
    acquisition_number: str
    gantry_tilt: float
    padding: int | None
    adversarial: bool
    overlong: tuple[str, ...]

    @property
    def name(self) -> str:
        """The slice for a sentence: folder and file, and the frame counted from 1."""
        return shown_file(self.file) + ("" if self.index is None else f" frame {self.index + 1}")

    @property
    def stored_range(self) -> tuple[int, int]:
        """Lowest and highest number that ``bits_stored`` bits hold."""
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1

    @property
    def grid(self) -> StoredGrid:
        """The HU that this slice can hold."""
        edges = sorted(limit * self.slope + self.intercept for limit in self.stored_range)
        return StoredGrid(abs(self.slope), self.intercept, *edges)


def decimal_texts(dataset: Any, keyword: str) -> list[str]:
    """A decimal attribute as it is written: pydicom's own conversion warns about long strings on every access."""
    if keyword not in dataset:
        return []
    value = dataset.get_item(keyword).value
    if value is None:
        return []
    if isinstance(value, bytes):
        return value.decode("ascii", "replace").strip("\0 ").split("\\")
    values = value if isinstance(value, (list, tuple)) or hasattr(value, "__iter__") else [value]
    if isinstance(value, str):
        values = value.split("\\")
    return [getattr(item, "original_string", None) or str(item) for item in values]


def decimal_numbers(dataset: Any, keyword: str, count: int, where: str) -> tuple[float, ...] | None:
    """``count`` finite numbers of a decimal attribute; None where the attribute is missing or empty.

    Raises:
        ValueError: for another count, text that is no number, NaN and infinity.
    """
    texts = decimal_texts(dataset, keyword)
    if not texts or texts == [""]:
        return None
    try:
        numbers = tuple(float(text) for text in texts)
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        shown = "\\".join(texts)[:80]
        raise ValueError(f"{keyword} of {where} must hold {count} finite number(s), got {shown!r}.")
    return numbers


def overlong_decimals(dataset: Any, keywords: Iterable[str]) -> tuple[str, ...]:
    """Which of the attributes hold a decimal string of more than 16 characters."""
    return tuple(
        keyword for keyword in keywords if any(len(text) > DECIMAL_STRING for text in decimal_texts(dataset, keyword))
    )


def ct_class_problem(dataset: Any) -> str | None:
    """Why a file is no slice of a CT volume, as the end of a sentence; None where it is one."""
    modality = str(dataset.get("Modality", "") or "")
    sop_class = dataset.get("SOPClassUID", None)
    if modality != "CT":
        return f"has the modality {modality or 'unknown'}, not CT"
    if sop_class not in CT_CLASSES:
        return f"is of the class {getattr(sop_class, 'name', None) or 'unknown'}, which holds no CT volume"
    kinds = dataset.get("ImageType", None) or ()
    if "LOCALIZER" in ([kinds] if isinstance(kinds, str) else list(kinds)):
        return "is a localizer, not a slice of a volume"
    return None


def frames_of_file(path: Path, skip_labels: bool = False) -> list[Frame]:
    """The slices that a file holds, one or, in an enhanced file, as many as it has frames.

    Args:
        path: the file.
        skip_labels: an RT structure set or a DICOM segmentation has no slices instead of being an error.

    Raises:
        FileNotFoundError: where there is no file.
        RuntimeError: for a file that is not DICOM.
        ValueError: for what is no slice of a CT volume, lacks what places it in space or turns it into HU, or says so
            in numbers that are none.
    """
    dataset = open_dicom(path, stop_before_pixels=True)
    where = shown_file(path)
    with one_sentence(f"read the header of {where}"):
        return _frames(path, dataset, where, skip_labels)


def _frames(path: Path, dataset: Any, where: str, skip_labels: bool) -> list[Frame]:
    if skip_labels and dataset.get("Modality", "") in LABEL_MODALITIES:
        return []
    problem = ct_class_problem(dataset)
    if problem:
        raise ValueError(f"{where} {problem}.")
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence", None)
    if shared is None and not per_frame:
        if _whole(dataset, "NumberOfFrames", where, default=1) != 1:
            raise ValueError(f"{where} holds several frames but says of none where it lies.")
        return [_frame(path, None, dataset, [dataset], where)]
    count = _whole(dataset, "NumberOfFrames", where)
    if not per_frame or len(per_frame) != count:
        raise ValueError(
            f"{where} holds {count} frames, but its PerFrameFunctionalGroupsSequence describes {len(per_frame or ())}."
        )
    frames = []
    for index, groups in enumerate(per_frame):
        sources = [groups] if shared is None else [groups, shared]
        frames.append(_frame(path, index, dataset, sources, f"{where} frame {index + 1}"))
    return frames


# Functional group of an enhanced file that holds an attribute which is at the top of a file of one slice.
_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence",
    "FrameType": "CTImageFrameTypeSequence",
}


def _first(dataset: Any, keyword: str) -> Any:
    """The first item of a sequence, None where it is missing or empty."""
    items = dataset.get(keyword, None)
    return items[0] if items else None


def _holder(sources: Sequence[Any], keyword: str) -> Any:
    """The dataset that holds an attribute: of the frame, shared by all frames, or the file itself."""
    for source in sources:
        for candidate in (_first(source, _GROUPS[keyword]), source):
            if candidate is not None and keyword in candidate:
                return candidate
    return sources[-1]


def _needed(sources: Sequence[Any], keyword: str, count: int, where: str, why: str) -> tuple[float, ...]:
    numbers = decimal_numbers(_holder(sources, keyword), keyword, count, where)
    if numbers is None:
        raise ValueError(f"{where} has no {keyword}: {why}.")
    return numbers


def _whole(dataset: Any, keyword: str, where: str, default: int | None = None) -> int:
    try:
        value = dataset.get(keyword, None)
        if value is None and default is not None:
            return default
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where} has no usable {keyword}.") from None


def _number_or_none(dataset: Any, keyword: str) -> int | None:
    try:
        value = dataset.get(keyword, None)
        return None if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _frame(path: Path, index: int | None, dataset: Any, sources: Sequence[Any], where: str) -> Frame:
    frame_type = _holder(sources, "FrameType").get("FrameType", None) or ()
    if "LOCALIZER" in ([frame_type] if isinstance(frame_type, str) else list(frame_type)):
        raise ValueError(f"{where} is a localizer, not a slice of a volume.")
    unplaced = "nothing else says where it lies, and it is not guessed"
    position = _needed(sources, "ImagePositionPatient", 3, where, unplaced)
    orientation = _needed(sources, "ImageOrientationPatient", 6, where, unplaced)
    spacing = _needed(sources, "PixelSpacing", 2, where, unplaced)
    slope, intercept = _rescale(sources, where)
    bits_allocated, bits_stored, signed = _bits(dataset, where)
    placing = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept")
    overlong = [keyword for keyword in placing if overlong_decimals(_holder(sources, keyword), [keyword])]
    described = f"{dataset.get('DerivationDescription', '')} {dataset.get('ImageType', '')}"
    return Frame(
        file=path,
        index=index,
        series_uid=str(dataset.get("SeriesInstanceUID", "") or ""),
        instance_uid=str(dataset.get("SOPInstanceUID", "") or ""),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID", "") or ""),
        rows=_whole(dataset, "Rows", where),
        columns=_whole(dataset, "Columns", where),
        position=position,
        orientation=_unit_directions(orientation, where),
        spacing=_positive(spacing, where),
        slope=slope,
        intercept=intercept,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        photometric=str(dataset.get("PhotometricInterpretation", "")),
        signed=signed,
        instance_number=_number_or_none(dataset, "InstanceNumber") if index is None else index + 1,
        acquisition_number=str(dataset.get("AcquisitionNumber", "") or ""),
        gantry_tilt=_stated_tilt(dataset, where),
        padding=_number_or_none(dataset, "PixelPaddingValue"),
        adversarial="adversarial" in described.lower(),
        overlong=tuple(overlong),
    )


def _stated_tilt(dataset: Any, where: str) -> float:
    """GantryDetectorTilt, which is only reported: positions alone count."""
    try:
        return (decimal_numbers(dataset, "GantryDetectorTilt", 1, where) or (0.0,))[0]
    except ValueError:
        return 0.0


def _rescale(sources: Sequence[Any], where: str) -> tuple[float, float]:
    if "ModalityLUTSequence" in sources[-1]:
        raise ValueError(f"{where} maps stored values by a table (ModalityLUTSequence), not by a slope to HU.")
    units = "its stored values cannot be turned into HU"
    (slope,) = _needed(sources, "RescaleSlope", 1, where, units)
    (intercept,) = _needed(sources, "RescaleIntercept", 1, where, units)
    if slope == 0.0:
        raise ValueError(f"{where} has a RescaleSlope of 0: {units}.")
    kind = str(_holder(sources, "RescaleType").get("RescaleType", None) or "HU")
    if kind != "HU":
        raise ValueError(f"{where} is scaled to {kind!r} (RescaleType), not to HU.")
    return slope, intercept


def _bits(dataset: Any, where: str) -> tuple[int, int, bool]:
    shown_as = str(dataset.get("PhotometricInterpretation", "") or "unknown")
    if _whole(dataset, "SamplesPerPixel", where, default=1) != 1 or shown_as not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{where} is a color image or a palette ({shown_as}): its pixels are no HU.")
    if "PixelRepresentation" not in dataset:
        raise ValueError(f"{where} has no PixelRepresentation: whether its values are signed is not guessed.")
    allocated, stored = _whole(dataset, "BitsAllocated", where), _whole(dataset, "BitsStored", where)
    high = _whole(dataset, "HighBit", where, default=stored - 1)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1:
        raise ValueError(
            f"{where} has BitsAllocated {allocated}, BitsStored {stored} and HighBit {high}: expected 8, 16 or 32 bits "
            "whose lowest ones hold the value."
        )
    return allocated, stored, bool(_whole(dataset, "PixelRepresentation", where))


def _unit_directions(orientation: tuple[float, ...], where: str) -> tuple[float, ...]:
    along_row, along_column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if max(abs(length - 1.0) for length in lengths) > 1e-3 or abs(float(along_row @ along_column)) > 1e-3:
        raise ValueError(
            f"ImageOrientationPatient of {where} must be two perpendicular directions of length 1, got {orientation}."
        )
    return orientation


def _positive(spacing: tuple[float, ...], where: str) -> tuple[float, ...]:
    if min(spacing) <= 0.0:
        raise ValueError(f"PixelSpacing of {where} must be above 0 mm, got {spacing}.")
    return spacing
