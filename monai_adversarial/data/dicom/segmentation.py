# SPDX-License-Identifier: Apache-2.0
"""DICOM segmentations as class maps on the grid of their CT series."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor

from monai_adversarial.data.dicom.class_map import ClassMap, check_classes, chosen_names
from monai_adversarial.data.dicom.library import DAMAGED, highdicom, one_sentence, open_dicom, shown_file
from monai_adversarial.data.dicom.series import CTSeries
from monai_adversarial.data.dicom.structure_set import check_reference

__all__ = ["read_segmentation"]

# Positions that are off by more than this share of a voxel belong to another grid.
OFF_GRID = 0.1


def read_segmentation(
    path: str | os.PathLike[str], series: CTSeries, classes: Mapping[str, int], ignored: Iterable[str] = ()
) -> MetaTensor:
    """Read a DICOM segmentation (binary or label map) as a class map on the grid of its series.

    Frames are placed by their positions: a segmentation may hold its frames in any order, leave empty ones out, be
    flipped or cover a part of the grid. Nothing is resampled.

    >>> import tempfile
    >>> import highdicom
    >>> import numpy as np
    >>> from pydicom import dcmread
    >>> from pydicom.sr.codedict import codes
    >>> from monai_adversarial.data.dicom import read_segmentation, read_series
    >>> from monai_adversarial.data.example_series import write_example_series
    >>> mask, liver = np.zeros((2, 128, 128), bool), codes.SCT.Liver
    >>> mask[0, 10:14, 20:30] = True  # 4 rows, 10 columns
    >>> organ = highdicom.seg.SegmentDescription(1, "liver", codes.SCT.Organ, liver, "MANUAL")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_example_series(folder)
    ...     series, slices = read_series(folder), [dcmread(f"{folder}/{number}.dcm") for number in range(2)]
    ...     segmentation = highdicom.seg.Segmentation(
    ...         slices, mask, "BINARY", [organ], highdicom.UID(), 1, highdicom.UID(), 1, "us", "toy", "1", "1"
    ...     )
    ...     segmentation.save_as(f"{folder}/segmentation.dcm")
    ...     label = read_segmentation(f"{folder}/segmentation.dcm", series, {"liver": 7})
    >>> label.shape, label.unique().tolist(), label[0, 20:30, 10:14, 0].unique().tolist()
    (torch.Size([1, 128, 128, 2]), [0, 7], [7])

    Args:
        path: the segmentation.
        series: the series that it refers to.
        classes: SegmentLabel to class index; several labels may share an index.
        ignored: labels that are left out on purpose.

    Returns:
        MetaTensor (1, column, row, slice) of class indices with the affine of the series; 0 is background.

    Raises:
        FileNotFoundError: where there is no file.
        ImportError: where highdicom is missing.
        RuntimeError: for a file that is not DICOM or not a segmentation that highdicom can read.
        ValueError: for another series or frame of reference, labels that are neither in ``classes`` nor ``ignored``,
            probabilities instead of a segmentation, another grid, and segments that overlap.
    """
    check_classes(classes)
    where = shown_file(path)
    dataset = open_dicom(path)
    with one_sentence(f"read {where} as a DICOM segmentation"):
        return _class_map(_segmentation(dataset, where), series, classes, ignored, where)


def _class_map(
    segmentation: Any, series: CTSeries, classes: Mapping[str, int], ignored: Iterable[str], where: str
) -> MetaTensor:
    kind = str(segmentation.SegmentationType)
    if kind == "FRACTIONAL":
        raise ValueError(f"{where} holds fractions: at which one an organ begins is not guessed.")
    check_reference(segmentation, series, where)
    if str(segmentation.get("FrameOfReferenceUID", "") or "") != series.frame_of_reference:
        raise ValueError(f"{where} lies in another frame of reference than the series: its positions do not fit.")
    labels = {int(item.SegmentNumber): str(item.SegmentLabel) for item in segmentation.SegmentSequence}
    # A label map describes its background as the segment 0.
    labels = {number: label for number, label in labels.items() if number != 0}
    chosen = chosen_names(list(labels.values()), classes, ignored, where)
    result = ClassMap(series, chosen, where)
    shared = (segmentation.get("SharedFunctionalGroupsSequence", None) or [None])[0]
    for index, groups in enumerate(segmentation.PerFrameFunctionalGroupsSequence):
        if kind == "LABELMAP":
            names = {number: label for number, label in labels.items() if label in chosen}
        else:
            number = int(_group([groups, shared], "SegmentIdentificationSequence", where).ReferencedSegmentNumber)
            names = {1: labels.get(number, "")} if labels.get(number, "") in chosen else {}
        if names:
            _place(result, names, _pixels(segmentation, index, where), [groups, shared])
    return result.finished()


def _segmentation(dataset: Any, where: str) -> Any:
    if dataset.get("Modality", "") != "SEG":
        raise ValueError(f"{where} is no DICOM segmentation: its modality is {dataset.get('Modality', 'unknown')}.")
    return highdicom().seg.Segmentation.from_dataset(dataset, copy=False)


def _pixels(segmentation: Any, index: int, where: str) -> np.ndarray:
    """Pixels (row, column) of a frame, counted from 0."""
    try:
        return np.asarray(segmentation.get_stored_frame(index + 1))
    except (ValueError, RuntimeError, *DAMAGED) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RuntimeError(f"cannot decode frame {index + 1} of {where}: {reason}.") from error


def _group(sources: list[Any], keyword: str, where: str) -> Any:
    for source in sources:
        items = source.get(keyword, None) if source is not None else None
        if items:
            return items[0]
    raise ValueError(f"{where} has a frame without {keyword}.")


def _place(result: ClassMap, names: Mapping[int, str], pixels: np.ndarray, sources: list[Any]) -> None:
    """Mark the voxels of a frame, whose pixels hold the keys of ``names``."""
    row, column = np.nonzero(np.isin(pixels, list(names)))
    if not len(row):
        return
    voxels = _voxels(result, column, row, pixels.shape, sources)
    if not bool(((voxels >= 0) & (voxels < result.shape)).all()):
        raise ValueError(f"{result.where} marks voxels outside the series.")
    values = pixels[row, column]
    for number, name in names.items():
        chosen = values == number
        if chosen.any():
            result.mark(name, tuple(voxels[chosen].T), np.ones(int(chosen.sum()), dtype=bool))


def _voxels(
    result: ClassMap, column: np.ndarray, row: np.ndarray, size: tuple[int, ...], sources: list[Any]
) -> np.ndarray:
    """Voxel indices (n, 3) of pixels, from the frame's own position, orientation and spacing."""
    position = _group(sources, "PlanePositionSequence", result.where).ImagePositionPatient
    orientation = _group(sources, "PlaneOrientationSequence", result.where).ImageOrientationPatient
    spacing = _group(sources, "PixelMeasuresSequence", result.where).PixelSpacing
    frame = np.eye(4)[:, [0, 1, 3]]
    frame[:3, 0] = np.array(orientation[:3], dtype=float) * float(spacing[1])
    frame[:3, 1] = np.array(orientation[3:], dtype=float) * float(spacing[0])
    frame[:3, 2] = np.array(position, dtype=float)
    to_voxel = np.linalg.solve(result.affine, frame)[:3]
    whole = np.rint(to_voxel)
    corners = np.array([[c, r, 1] for c in (0, size[1] - 1) for r in (0, size[0] - 1)]).T
    if float(np.abs((to_voxel - whole) @ corners).max()) > OFF_GRID or int(np.abs(whole[:, :2]).sum()) != 2:
        raise ValueError(f"{result.where} lies on another grid than the series: resample it first.")
    return np.stack([column, row, np.ones_like(row)], axis=1) @ whole.T.astype(int)
