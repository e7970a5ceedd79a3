# SPDX-License-Identifier: Apache-2.0
"""A label of a CT series, whichever kind of DICOM object holds it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from monai.data import MetaTensor

from monai_adversarial.data.dicom.library import open_dicom, shown_file
from monai_adversarial.data.dicom.segmentation import read_segmentation
from monai_adversarial.data.dicom.series import CTSeries
from monai_adversarial.data.dicom.structure_set import read_structure_set

__all__ = ["read_label"]


def read_label(
    path: str | os.PathLike[str], series: CTSeries, classes: Mapping[str, int], ignored: Iterable[str] = ()
) -> MetaTensor:
    """Read an RT structure set or a DICOM segmentation as a class map on the grid of its series.

    See :func:`read_structure_set` and :func:`read_segmentation` for the arguments, what is returned and errors.

    >>> import tempfile
    >>> from monai_adversarial.data.dicom import read_label, read_series
    >>> from monai_adversarial.data.example_series import write_example_series
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_example_series(folder)
    ...     series = read_series(folder)
    ...     read_label(f"{folder}/0.dcm", series, {"liver": 1})
    Traceback (most recent call last):
    ValueError: ...0.dcm is no label: its modality is CT, expected RTSTRUCT or SEG.

    Raises:
        ValueError: for a DICOM object that is neither.
    """
    modality = str(
        open_dicom(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality", "") or "unknown"
    )
    if modality == "RTSTRUCT":
        return read_structure_set(path, series, classes, ignored)
    if modality == "SEG":
        return read_segmentation(path, series, classes, ignored)
    raise ValueError(f"{shown_file(path)} is no label: its modality is {modality}, expected RTSTRUCT or SEG.")
