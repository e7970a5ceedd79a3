# SPDX-License-Identifier: Apache-2.0
"""A small CT series on disk in one line: what the examples of DICOM read."""

from __future__ import annotations

import os
from pathlib import Path

from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["write_example_series"]


def write_example_series(folder: str | os.PathLike[str], slices: int = 2, spacing: float = 3.0) -> str:
    """Write ``0.dcm``, ``1.dcm`` and so on: the CT slice that comes with pydicom (128 x 128), at several heights.

    >>> import tempfile
    >>> from monai_adversarial.data.dicom import read_series
    >>> from monai_adversarial.data.example_series import write_example_series
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     uid = write_example_series(folder, slices=3)
    ...     series = read_series(folder)
    >>> series.image.shape, series.series_uid == uid
    (torch.Size([1, 128, 128, 3]), True)

    Args:
        folder: that exists.
        slices: files.
        spacing: mm from slice to slice.

    Returns:
        SeriesInstanceUID.

    Raises:
        ValueError: for no slices, and for a spacing that is not above 0.
    """
    from pydicom import dcmread
    from pydicom.data import get_testdata_file
    from pydicom.uid import UID

    check_positive("spacing", spacing)
    one = dcmread(str(get_testdata_file("CT_small.dcm")))
    for number in range(check_count("slices", slices)):
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{number}")
        one.ImagePositionPatient = [0, 0, spacing * number]
        one.save_as(Path(folder) / f"{number}.dcm")
    return str(one.SeriesInstanceUID)
