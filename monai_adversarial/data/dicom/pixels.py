# SPDX-License-Identifier: Apache-2.0
"""Stored values of slices, whatever their transfer syntax, and the HU that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from monai_adversarial.data.dicom.frames import Frame
from monai_adversarial.data.dicom.library import open_dicom, pydicom, shown_file

__all__ = ["hounsfield", "stored_slices"]


def stored_slices(frames: Sequence[Frame]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the place in ``frames`` and the stored values (rows, columns) of every slice, file by file.

    Raises:
        RuntimeError: for compressed data that cannot be decoded here, and data that is cut off.
        ValueError: for values that the header says cannot be stored.
    """
    by_file = sorted(range(len(frames)), key=lambda place: (str(frames[place].file), frames[place].index or 0))
    for file, group in groupby(by_file, key=lambda place: frames[place].file):
        places = list(group)
        decoded = _decoded(file, [frames[place].index or 0 for place in places])
        for place, values in zip(places, decoded, strict=True):
            frame = frames[place]
            low, high = frame.stored_range
            if values.shape != (frame.rows, frame.columns):
                raise ValueError(
                    f"{frame.name} holds {values.shape} pixels, its header says {(frame.rows, frame.columns)}."
                )
            if int(values.min()) < low or int(values.max()) > high:
                raise ValueError(
                    f"{frame.name} holds stored values from {values.min()} to {values.max()}, but {frame.bits_stored} "
                    f"{'signed' if frame.signed else 'unsigned'} bits reach from {low} to {high}."
                )
            yield place, values


def _decoded(file: Any, indices: Sequence[int]) -> list[np.ndarray]:
    library = pydicom()
    dataset = open_dicom(file)
    name = shown_file(file)
    if "PixelData" not in dataset:
        raise RuntimeError(f"{name} has no pixel data.")
    syntax = dataset.file_meta.get("TransferSyntaxUID", None) if hasattr(dataset, "file_meta") else None
    if syntax is None:
        raise RuntimeError(f"{name} does not say how its pixels are encoded (TransferSyntaxUID).")
    if syntax.is_compressed and not _decodable(syntax):
        raise RuntimeError(
            f"{name} is compressed as {syntax.name}, for which pydicom finds no decoder here: install one, for example "
            'pip install python-gdcm, or "pylibjpeg[all]", or decompress the series first.'
        )
    try:
        return [np.array(values) for values in library.pixels.iter_pixels(dataset, indices=list(indices), raw=True)]
    except (ValueError, RuntimeError, AttributeError, NotImplementedError, OSError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(f"cannot decode the pixels of {name}: {reason[:200] or type(error).__name__}.") from error


def _decodable(syntax: Any) -> bool:
    try:
        return bool(pydicom().pixels.get_decoder(syntax).is_available)
    except NotImplementedError:
        return False


def hounsfield(stored: np.ndarray, frame: Frame) -> np.ndarray:
    """HU of a slice's stored values in float32, from which each stored value can be found again.

    Raises:
        ValueError: where float32 is too coarse for that.
    """
    values = (stored.astype(np.float64) * frame.slope + frame.intercept).astype(np.float32)
    again = np.rint((values.astype(np.float64) - frame.intercept) / frame.slope)
    if not np.array_equal(again, stored):
        raise ValueError(
            f"{frame.name} stores values in steps of {abs(frame.slope):g} HU around {frame.intercept:g} HU, finer than "
            "float32 can tell apart."
        )
    return values
