# SPDX-License-Identifier: Apache-2.0
"""RT structure sets as class maps on the grid of their CT series."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor

from monai_adversarial.data.dicom.class_map import ClassMap, check_classes, chosen_names
from monai_adversarial.data.dicom.contour_fill import inside_contours
from monai_adversarial.data.dicom.find import referenced_series
from monai_adversarial.data.dicom.library import one_sentence, open_dicom, shown_file
from monai_adversarial.data.dicom.series import CTSeries

__all__ = ["check_reference", "read_structure_set"]

# A contour further than this share of the slice distance from a slice was not drawn on it.
OFF_SLICE = 0.1

AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def read_structure_set(
    path: str | os.PathLike[str], series: CTSeries, classes: Mapping[str, int], ignored: Iterable[str] = ()
) -> MetaTensor:
    """Read the contours of an RT structure set as a class map on the grid of the series that they were drawn on.

    The contours of an organ on a slice are filled together by the even-odd rule at voxel centers. Nothing is filled in
    between slices: a warning counts slices without a contour between the first and the last one of an organ.

    >>> import tempfile
    >>> from pydicom import dcmread
    >>> from pydicom.data import get_testdata_file
    >>> from monai_adversarial.data.dicom import read_series, read_structure_set
    >>> from monai_adversarial.data.example_series import write_example_series
    >>> contours = dcmread(get_testdata_file("rtstruct.dcm"), force=True)
    >>> with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
    ...     _ = write_example_series(folder)
    ...     contours.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    ...     contours.save_as(f"{other}/rtstruct.dcm", enforce_file_format=True)
    ...     read_structure_set(f"{other}/rtstruct.dcm", read_series(folder), {"liver": 1})
    Traceback (most recent call last):
    ValueError: .../rtstruct.dcm was made for another series than this one: it refers to 1.2.826...

    Args:
        path: the RT structure set.
        series: the series that it refers to.
        classes: ROIName to class index; several names may share an index.
        ignored: names that are left out on purpose, for example the outline of the body.

    Returns:
        MetaTensor (1, column, row, slice) of class indices with the affine of the series; 0 is background.

    Raises:
        FileNotFoundError: where there is no file.
        RuntimeError: for a file that is not DICOM.
        ValueError: for another series or frame of reference, names that are neither in ``classes`` nor ``ignored``,
            contours between or outside the slices, and organs that overlap.
    """
    check_classes(classes)
    dataset = open_dicom(path)
    where = shown_file(path)
    with one_sentence(f"read {where} as an RT structure set"):
        return _class_map(dataset, series, classes, ignored, where)


def _class_map(
    dataset: Any, series: CTSeries, classes: Mapping[str, int], ignored: Iterable[str], where: str
) -> MetaTensor:
    if dataset.get("Modality", "") != "RTSTRUCT":
        raise ValueError(f"{where} is no RT structure set: its modality is {dataset.get('Modality', 'unknown')}.")
    check_reference(dataset, series, where)
    drawn = {int(item.ReferencedROINumber): item for item in dataset.get("ROIContourSequence", None) or ()}
    regions = []
    for region in dataset.get("StructureSetROISequence", None) or ():
        contours = drawn.get(int(region.ROINumber), {}).get("ContourSequence", None) or ()
        if contours:
            regions.append((str(region.get("ROIName", "") or ""), region, contours))
    chosen = chosen_names([name for name, _, _ in regions], classes, ignored, where)
    result = ClassMap(series, chosen, where)
    for name, region, contours in regions:
        if name in chosen:
            _check_frame(region, series, f"{name!r} of {where}")
            _fill(result, name, contours)
    return result.finished()


def check_reference(dataset: Any, series: CTSeries, where: str) -> None:
    """Raise where a label object names other series than this one."""
    named = referenced_series(dataset)
    if named and series.series_uid not in named:
        raise ValueError(f"{where} was made for another series than this one: it refers to {', '.join(sorted(named))}.")


def _check_frame(region: Any, series: CTSeries, where: str) -> None:
    named = str(region.get("ReferencedFrameOfReferenceUID", "") or "")
    if named != series.frame_of_reference:
        raise ValueError(f"{where} lies in another frame of reference than the series: its positions do not fit.")


def _fill(result: ClassMap, name: str, contours: Any) -> None:
    by_slice: dict[int, list[np.ndarray]] = {}
    for contour in contours:
        kind = str(contour.get("ContourGeometricType", ""))
        if kind not in AREAS:
            raise ValueError(f"{name!r} of {result.where} is drawn as {kind or 'unknown'}, which encloses no area.")
        place, points = _on_slice(result, name, contour)
        by_slice.setdefault(place, []).append(points)
    columns, rows = result.shape[:2]
    for place, drawn in by_slice.items():
        result.mark(name, (slice(None), slice(None), place), inside_contours(drawn, columns, rows))
    between = max(by_slice) - min(by_slice) + 1
    if len(by_slice) < between:
        warnings.warn(
            f"{name!r} of {result.where} has no contour on {between - len(by_slice)} of {between} slices between its "
            "first and its last: they are not filled in.",
            stacklevel=4,
        )


def _on_slice(result: ClassMap, name: str, contour: Any) -> tuple[int, np.ndarray]:
    """Number of the slice that a contour lies on, and its points as column and row."""
    points = _points(contour, f"{name!r} of {result.where}")
    placed = np.linalg.solve(result.affine, np.c_[points, np.ones(len(points))].T)[:3].T
    place = int(np.rint(placed[:, 2].mean()))
    if float(np.abs(placed[:, 2] - place).max()) > OFF_SLICE:
        raise ValueError(
            f"a contour of {name!r} of {result.where} lies at slice {placed[:, 2].min():.2f} to "
            f"{placed[:, 2].max():.2f}, not on one: it was drawn on another grid."
        )
    if not 0 <= place < result.shape[2]:
        raise ValueError(
            f"a contour of {name!r} of {result.where} lies outside the series, at slice {place} of 0 to "
            f"{result.shape[2] - 1}."
        )
    # Rounding errors of the transform must not decide on which side of an edge a voxel center lies.
    return place, placed[:, :2].round(4)


def _points(contour: Any, where: str) -> np.ndarray:
    """Points (n, 3) in mm, LPS; read from the text itself, as pydicom makes an object of every number."""
    value = contour.get_item("ContourData").value if "ContourData" in contour else None
    numbers = value.split(b"\\") if isinstance(value, bytes) else list(value or ())
    try:
        points = np.array([float(number) for number in numbers]).reshape(-1, 3)
    except ValueError:
        points = np.empty((0, 3))
    if not len(points) or not np.isfinite(points).all():
        raise ValueError(f"a contour of {where} does not hold triples of finite numbers.")
    return points
