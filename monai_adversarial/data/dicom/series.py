# SPDX-License-Identifier: Apache-2.0
"""A CT series as one volume in HU, or one sentence on why it is none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor

from monai_adversarial.data.dicom.frames import Frame, frames_of_file
from monai_adversarial.data.dicom.geometry import LPS_TO_RAS, arrange, lps_affine, number_notes
from monai_adversarial.data.dicom.pixels import hounsfield, stored_slices
from monai_adversarial.data.file_names import shown
from monai_adversarial.utils.stored_grid import StoredGrid
from monai_adversarial.utils.validation import check_choice

__all__ = ["CTSeries", "dicom_files", "is_dicom_name", "read_series"]

GANTRY_TILT = ("refuse", "shear")


@dataclass(frozen=True, eq=False)
class CTSeries:
    """A CT series as a volume.

    >>> import tempfile
    >>> from monai_adversarial.data.dicom import read_series
    >>> from monai_adversarial.data.example_series import write_example_series
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     uid = write_example_series(folder)
    ...     series = read_series(folder)
    >>> series.series_uid == uid, series.affine.shape, len(series.frames)
    (True, torch.Size([4, 4]), 2)

    Args:
        image: MetaTensor (1, column, row, slice) in HU, float32; its affine is RAS in mm, float64. Slices follow each
            other along their normal, whatever their instance numbers are.
        frames: what the header says of each slice, in that order.
        notes: one sentence for each thing that is unusual but changes no voxel and no position.
    """

    image: MetaTensor
    frames: tuple[Frame, ...]
    notes: tuple[str, ...] = ()

    @property
    def affine(self) -> torch.Tensor:
        """Voxel to mm, RAS, (4, 4) float64."""
        return self.image.affine

    @property
    def series_uid(self) -> str:
        """SeriesInstanceUID."""
        return self.frames[0].series_uid

    @property
    def frame_of_reference(self) -> str:
        """FrameOfReferenceUID, empty where the series has none."""
        return self.frames[0].frame_of_reference

    @property
    def slice_grids(self) -> tuple[StoredGrid, ...]:
        """The HU that each slice can hold."""
        return tuple(frame.grid for frame in self.frames)

    @property
    def stored_grid(self) -> StoredGrid | None:
        """The HU that all slices can hold, for ``AttackedModel(stored_grid=...)``; None where slices differ in slope,
        intercept or bits: rounding then happens when the series is written."""
        grids = set(self.slice_grids)
        return grids.pop() if len(grids) == 1 else None

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.image.shape[1:]))
        return f"CTSeries({size} voxels, {self.stored_grid or 'a grid per slice'}, notes={list(self.notes)})"


def read_series(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], gantry_tilt: str = "refuse"
) -> CTSeries:
    """Read a CT series: slice by slice or enhanced multi-frame, compressed where pydicom finds a decoder.

    Order and affine come from ImagePositionPatient and ImageOrientationPatient alone. Nothing is resampled, filled in
    or guessed.

    >>> import tempfile
    >>> from pydicom.data import get_testdata_file
    >>> from monai_adversarial.data.dicom import read_series
    >>> from monai_adversarial.data.example_series import write_example_series
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = write_example_series(folder, slices=3, spacing=5.0)
    ...     series = read_series(folder)
    >>> series.image.shape, float(series.image.pixdim[2])
    (torch.Size([1, 128, 128, 3]), 5.0)
    >>> read_series(get_testdata_file("CT_small.dcm"))
    Traceback (most recent call last):
    ValueError: test_files/CT_small.dcm is a single slice: nothing says how thick a volume of it is.

    Args:
        source: a folder that holds the files of one series (not its subfolders; RT structure sets and segmentations
            beside them are passed over), one file, or a list of files.
        gantry_tilt: ``"refuse"``, or ``"shear"``: the voxels as they are with the sheared affine.

    Raises:
        FileNotFoundError: where there is nothing.
        RuntimeError: for a file that cannot be read or decoded.
        ValueError: for files of several series, and for slices that are no evenly spaced grid of HU: doubled, missing,
            unevenly spaced, tilted slices, mixed sizes or orientations, missing positions or rescale, not CT.
    """
    check_choice("gantry_tilt", gantry_tilt, GANTRY_TILT)
    folder = isinstance(source, (str, os.PathLike)) and Path(source).expanduser().is_dir()
    found = [frame for file in dicom_files(source) for frame in frames_of_file(file, skip_labels=folder)]
    if not found:
        raise FileNotFoundError(f"there are no DICOM files in {source}.")
    _check_one_series(found)
    frames, notes = arrange(found, shear=gantry_tilt == "shear")
    first = frames[0]
    voxels = np.empty((1, first.columns, first.rows, len(frames)), dtype=np.float32)
    padded = 0
    for place, stored in stored_slices(frames):
        voxels[0, :, :, place] = hounsfield(stored, frames[place]).T
        if frames[place].padding is not None:
            padded += int((stored == frames[place].padding).sum())
    affine = torch.as_tensor(LPS_TO_RAS @ lps_affine(frames))
    notes = [*notes, *number_notes(frames), *_value_notes(frames, padded)]
    return CTSeries(MetaTensor(torch.from_numpy(voxels), affine=affine), tuple(frames), tuple(notes))


def dicom_files(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The DICOM files of a folder (without its subfolders), or the files that were given.

    A folder's file counts as DICOM where it begins as one; a file that is only called ``.dcm`` is refused when read.

    Raises:
        FileNotFoundError: where there is nothing, or no DICOM file in the folder.
    """
    if not isinstance(source, (str, os.PathLike)):
        return [Path(file) for file in source]
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"there is no folder or DICOM file at {path}.")
    files = [file for file in sorted(path.iterdir()) if is_dicom_name(file)]
    if not files:
        raise FileNotFoundError(f"there are no DICOM files in {path}.")
    return files


def is_dicom_name(file: Path) -> bool:
    """Whether a file begins as DICOM does (PS3.10), or is called ``.dcm``; hidden files and a DICOMDIR are neither."""
    if file.name.startswith(".") or file.name.upper() == "DICOMDIR" or not file.is_file():
        return False
    if file.suffix.lower() in (".dcm", ".dicom"):
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _check_one_series(frames: Sequence[Frame]) -> None:
    counts: dict[str, int] = {}
    for frame in frames:
        counts[frame.series_uid] = counts.get(frame.series_uid, 0) + 1
    if "" in counts:
        nameless = next(frame for frame in frames if not frame.series_uid)
        raise ValueError(f"{nameless.name} has no SeriesInstanceUID: which series it belongs to is not guessed.")
    if len(counts) > 1:
        listed = shown(
            f"{uid} ({count} slices, {next(frame.name for frame in frames if frame.series_uid == uid)})"
            for uid, count in counts.items()
        )
        raise ValueError(
            f"the files belong to {len(counts)} series: {listed}; give the files of one, which find_series lists."
        )


def _value_notes(frames: Sequence[Frame], padded: int) -> list[str]:
    notes = []
    overlong = sorted({keyword for frame in frames for keyword in frame.overlong})
    if overlong:
        notes.append(
            f"{', '.join(overlong)}: decimal strings of more than the 16 characters that DICOM allows; read in full."
        )
    scales = {(frame.slope, frame.intercept) for frame in frames}
    if len(scales) > 1:
        notes.append(f"slices have {len(scales)} different scalings to HU: each keeps its own grid of stored values.")
    if len({(frame.bits_stored, frame.signed) for frame in frames}) > 1:
        notes.append("slices differ in the bits of their stored values: each keeps its own.")
    if padded:
        notes.append(f"{padded} voxels hold the padding value outside the field of view: their HU mean nothing.")
    if any(frame.adversarial for frame in frames):
        notes.append("the series is itself marked as adversarial.")
    return notes
