# SPDX-License-Identifier: Apache-2.0
"""Stored values of slices, whatever their transfer syntax, and the HU that they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from monai_adversarial.data.dicom.frames import Frame
from monai_adversarial.data.dicom.library import DAMAGED, open_dicom, pydicom, shown_file

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
        decoded = _decoded(file, [frames[place].index or 0 for place in places], frames[places[0]])
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


def _decoded(file: Any, indices: Sequence[int], frame: Frame) -> Iterator[np.ndarray]:
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
            "pip install python-gdcm, or decompress the series first."
        )
    try:
        if not syntax.is_encapsulated:
            _check_spare_bits(dataset, frame, "<" if syntax.is_little_endian else ">")
        for values in library.pixels.iter_pixels(dataset, indices=list(indices), raw=True):
            yield np.array(values)
    except SpareBitsError:
        raise
    except (OSError, ValueError, RuntimeError, *DAMAGED) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RuntimeError(f"cannot decode the pixels of {name}: {reason}.") from error


class SpareBitsError(ValueError):
    """Something is in the bits of a pixel that hold no value."""


def _check_spare_bits(dataset: Any, frame: Frame, endian: str) -> None:
    """Raise where a decoder would silently cut a value off: bits above BitsStored that are neither 0, nor copies of the
    sign, nor an overlay that the header declares."""
    spare = frame.bits_allocated - frame.bits_stored
    if spare == 0 or any(0x60000102 + (group << 16) in dataset for group in range(0, 0x20, 2)):
        return
    size = frame.bits_allocated // 8
    values = np.frombuffer(dataset.PixelData[: len(dataset.PixelData) // size * size], dtype=f"{endian}u{size}")
    above = values >> frame.bits_stored
    negative = frame.signed & ((values >> (frame.bits_stored - 1)) & 1 == 1)
    wrong = int(((above != 0) & ~(negative & (above == (1 << spare) - 1))).sum())
    if wrong:
        raise SpareBitsError(
            f"{wrong} pixels of {frame.name} do not fit in the {frame.bits_stored} bits that its header states "
            "(BitsStored): which of the two is wrong is not guessed."
        )


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
