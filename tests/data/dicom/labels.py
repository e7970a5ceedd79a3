# SPDX-License-Identifier: Apache-2.0
"""Small RT structure sets and DICOM segmentations for a synthetic series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, generate_uid

from monai_adversarial.data.dicom import CTSeries
from monai_adversarial.data.dicom.geometry import lps_affine
from tests.data.dicom.samples import common, decimal, new_file

RT_STRUCTURE_SET = UID("1.2.840.10008.5.1.4.1.1.481.3")

Contour = tuple[float, Sequence[tuple[float, float]]]


def box(column: float, row: float, width: float, height: float) -> list[tuple[float, float]]:
    """The corners of a box as column and row."""
    return [(column, row), (column + width, row), (column + width, row + height), (column, row + height)]


def write_structure_set(
    file: Path,
    series: CTSeries,
    organs: Mapping[str, Sequence[Contour]],
    kind: str = "CLOSED_PLANAR",
    frame_of_reference: str | None = None,
    series_uid: str | None = None,
) -> Path:
    """Write contours that are given as slice number and points (column, row) on the grid of ``series``."""
    affine = lps_affine(series.frames)
    dataset = common(new_file(RT_STRUCTURE_SET), "RTSTRUCT")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.StructureSetLabel = "RTSTRUCT"
    referenced, study, frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = series_uid or series.series_uid
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = generate_uid()
    study.RTReferencedSeriesSequence = [referenced]
    frame.FrameOfReferenceUID = frame_of_reference or series.frame_of_reference
    frame.RTReferencedStudySequence = [study]
    dataset.ReferencedFrameOfReferenceSequence = [frame]
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(organs.items(), start=1):
        region, drawn = Dataset(), Dataset()
        region.ROINumber, region.ROIName = number, name.rstrip("*")
        region.ReferencedFrameOfReferenceUID = frame_of_reference or series.frame_of_reference
        drawn.ReferencedROINumber = number
        drawn.ContourSequence = []
        for place, points in contours:
            item = Dataset()
            placed = [affine @ [column, row, place, 1.0] for column, row in points]
            item.ContourGeometricType, item.NumberOfContourPoints = kind, len(points)
            item.ContourData = [decimal(value) for point in placed for value in point[:3]]
            drawn.ContourSequence.append(item)
        dataset.StructureSetROISequence.append(region)
        dataset.ROIContourSequence.append(drawn)
    dataset.save_as(file, enforce_file_format=True)
    return file


def write_segmentation(
    file: Path,
    folder: Path,
    masks: np.ndarray,
    names: Sequence[str],
    kind: str = "BINARY",
    places: Sequence[int] | None = None,
    **options: object,
) -> Path:
    """Write masks (slice, row, column, segment), or a label map (slice, row, column), with highdicom."""
    sources = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    sources = sources if places is None else [sources[place] for place in places]
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, name in enumerate(names, start=1)
    ]
    segmentation = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=3,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Phantom",
        manufacturer_model_name="Sample",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    segmentation.save_as(file)
    return file
