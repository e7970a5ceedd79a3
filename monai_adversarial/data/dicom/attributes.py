# SPDX-License-Identifier: Apache-2.0
"""Which attributes an adversarial series takes over from its source: only those that are listed here."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from monai_adversarial.data.dicom.frames import decimal_texts
from monai_adversarial.data.dicom.library import DAMAGED, pydicom

__all__ = ["IDENTIFYING", "TECHNICAL", "copy_attributes", "decimal_string"]

# How the image was made and how it is shown. Free text (comments, protocol and study names) is not among them: people
# write names into it. Private attributes are never taken over.
TECHNICAL = (
    "Manufacturer",
    "ManufacturerModelName",
    "SoftwareVersions",
    "BodyPartExamined",
    "Laterality",
    "PatientPosition",
    "PositionReferenceIndicator",
    "AcquisitionNumber",
    "ScanOptions",
    "SliceThickness",
    "SpacingBetweenSlices",
    "KVP",
    "DataCollectionDiameter",
    "ReconstructionDiameter",
    "DistanceSourceToDetector",
    "DistanceSourceToPatient",
    "GantryDetectorTilt",
    "TableHeight",
    "RotationDirection",
    "ExposureTime",
    "XRayTubeCurrent",
    "Exposure",
    "FilterType",
    "GeneratorPower",
    "FocalSpots",
    "ConvolutionKernel",
    "RevolutionTime",
    "SingleCollimationWidth",
    "TotalCollimationWidth",
    "TableSpeed",
    "TableFeedPerRotation",
    "SpiralPitchFactor",
    "CTDIvol",
    "SliceLocation",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "BurnedInAnnotation",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)

# Taken over with keep_identifiers=True alone.
IDENTIFYING = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "StudyDescription",
    "AccessionNumber",
    "ReferringPhysicianName",
    "InstitutionName",
    "StationName",
    "DeviceSerialNumber",
    "ProtocolName",
    "AcquisitionDate",
    "AcquisitionTime",
    "ContentDate",
    "ContentTime",
)


def decimal_string(value: float) -> Any:
    """A number as a decimal string of at most 16 characters, with all the digits that fit."""
    library = pydicom()
    return library.valuerep.DSfloat(library.valuerep.format_number_as_ds(float(value)))


def copy_attributes(source: Any, target: Any, keywords: Iterable[str]) -> None:
    """Copy what there is; decimal strings that are too long for DICOM are shortened, what cannot be read is left."""
    library = pydicom()
    for keyword in keywords:
        if keyword not in source:
            continue
        try:
            if library.datadict.dictionary_VR(keyword) == "DS":
                texts = [text for text in decimal_texts(source, keyword) if text]
                element = library.dataelem.DataElement(keyword, "DS", [decimal_string(float(text)) for text in texts])
            else:
                element = copy.deepcopy(source[keyword])
        except (ValueError, *DAMAGED):
            continue
        target.add(element)
