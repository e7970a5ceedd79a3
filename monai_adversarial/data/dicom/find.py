# SPDX-License-Identifier: Apache-2.0
"""The CT series below a folder, each with the label objects that name it."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_adversarial.data.dicom.frames import LABEL_MODALITIES, ct_class_problem
from monai_adversarial.data.dicom.library import one_sentence, open_dicom, shown_file
from monai_adversarial.data.dicom.series import is_dicom_name

__all__ = ["FoundSeries", "find_series", "holds_dicom", "referenced_series"]

_TAGS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "Modality",
    "SeriesDescription",
    "SeriesInstanceUID",
    "SeriesNumber",
    "ReferencedSeriesSequence",
    "ReferencedFrameOfReferenceSequence",
]


@dataclass(frozen=True)
class FoundSeries:
    """A CT series that was found below a folder.

    >>> import tempfile
    >>> from pydicom import dcmread
    >>> from pydicom.data import get_testdata_file
    >>> from monai_adversarial.data.dicom import find_series
    >>> slice_of_ct = dcmread(get_testdata_file("CT_small.dcm"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     slice_of_ct.save_as(f"{folder}/1.dcm")
    ...     (found,) = find_series(folder)
    >>> [file.name for file in found.files], found.uid == slice_of_ct.SeriesInstanceUID, found.labels
    (['1.dcm'], True, ())

    Args:
        uid: SeriesInstanceUID.
        folder: the folder that holds its files, or the lowest one above all of them.
        files: its files by name; pass them to ``read_series``.
        description: SeriesDescription as the header has it: it may name a patient.
        labels: RT structure sets and DICOM segmentations below the same folder that refer to this series.
    """

    uid: str
    folder: Path
    files: tuple[Path, ...]
    description: str = ""
    labels: tuple[Path, ...] = ()


def holds_dicom(folder: str | os.PathLike[str]) -> bool:
    """Whether a DICOM file lies in a folder or below it, hidden and adversarial folders aside; needs no extra.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pydicom.data import get_testdata_file
    >>> from monai_adversarial.data.dicom import holds_dicom
    >>> holds_dicom(Path(get_testdata_file("CT_small.dcm")).parent)
    True
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     holds_dicom(folder)
    False
    """
    root = Path(folder).expanduser()
    return root.is_dir() and next(_files(root), None) is not None


def find_series(folder: str | os.PathLike[str]) -> list[FoundSeries]:
    """List the CT series below a folder, one per SeriesInstanceUID, ordered by folder and number.

    The folder may be a series, a study, a patient or a folder of patients; several series in one folder are several
    entries. Hidden folders, and those that are named as adversarial, are left out. Localizers, images of other
    modalities and secondary captures are left out, and a warning counts them.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from pydicom import dcmread
    >>> from pydicom.data import get_testdata_file
    >>> from monai_adversarial.data.dicom import find_series
    >>> one = dcmread(get_testdata_file("CT_small.dcm"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for number, patient in enumerate(("a", "b")):
    ...         one.SeriesInstanceUID = f"1.2.3.{number}"
    ...         (Path(folder) / patient).mkdir()
    ...         one.save_as(Path(folder) / patient / "1.dcm")
    ...     names = [found.folder.name for found in find_series(folder)]
    >>> names
    ['a', 'b']

    Raises:
        FileNotFoundError: where there is no folder, or no CT series in it.
        RuntimeError: for a file that is called ``.dcm`` and cannot be read: without it a volume could lack a slice.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}.")
    series: dict[str, list[Path]] = {}
    first: dict[str, tuple[int, str]] = {}
    labels: dict[str, list[Path]] = {}
    left_out: Counter[str] = Counter()
    for file in _files(root):
        header = open_dicom(file, stop_before_pixels=True, specific_tags=_TAGS)
        with one_sentence(f"read the header of {shown_file(file)}"):
            uid = str(header.get("SeriesInstanceUID", "") or "")
            modality = str(header.get("Modality", "") or "unknown")
            if modality in LABEL_MODALITIES:
                for referenced in referenced_series(header):
                    labels.setdefault(referenced, []).append(file)
            elif not uid or ct_class_problem(header) is not None:
                left_out[_kind(header, modality)] += 1
            else:
                series.setdefault(uid, []).append(file)
                first.setdefault(uid, (_number(header), str(header.get("SeriesDescription", "") or "")))
    if left_out:
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))
        warnings.warn(f"left out of {root.name or root}: {counted}.", stacklevel=2)
    if not series:
        raise FileNotFoundError(f"there is no CT series below {root}.")
    found = [
        FoundSeries(
            uid=uid,
            folder=Path(os.path.commonpath([file.parent for file in files])),
            files=tuple(files),
            description=first[uid][1],
            labels=tuple(labels.get(uid, ())),
        )
        for uid, files in series.items()
    ]
    return sorted(found, key=lambda one: (str(one.folder), first[one.uid][0], one.uid))


def _number(header: Any) -> int:
    try:
        return int(header.get("SeriesNumber", None) or 0)
    except (TypeError, ValueError, OverflowError):
        return 0


def referenced_series(header: Any) -> set[str]:
    """SeriesInstanceUIDs that an RT structure set or a DICOM segmentation refers to."""
    uids = {str(item.get("SeriesInstanceUID", "")) for item in header.get("ReferencedSeriesSequence", None) or ()}
    for frame in header.get("ReferencedFrameOfReferenceSequence", None) or ():
        for study in frame.get("RTReferencedStudySequence", None) or ():
            for item in study.get("RTReferencedSeriesSequence", None) or ():
                uids.add(str(item.get("SeriesInstanceUID", "")))
    return uids - {""}


def _kind(header: Any, modality: str) -> str:
    if modality != "CT":
        return f"file(s) of modality {modality}"
    kinds = header.get("ImageType", None) or ()
    return "localizer(s)" if "LOCALIZER" in kinds else "CT file(s) that hold no volume"


def _files(root: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and "adversarial" not in name.lower())
        for name in sorted(names):
            if is_dicom_name(Path(parent) / name):
                yield Path(parent) / name
