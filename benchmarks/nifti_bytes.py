# SPDX-License-Identifier: Apache-2.0
"""NIfTI files read and written from their bytes, without nibabel: the measuring side of the budget examples."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["RawNifti", "read_raw", "write_raw"]

CODES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
HEADER = 352  # header and four bytes that say that there is no extension


@dataclass
class RawNifti:
    """Stored numbers and scaling of a file.

    Args:
        stored: numbers as they lie in the file, (spatial...).
        slope: of the scaling.
        intercept: of the scaling.
    """

    stored: np.ndarray
    slope: float
    intercept: float

    @property
    def values(self) -> np.ndarray:
        """What the file says, float64."""
        return self.stored.astype(np.float64) * self.slope + self.intercept


def _open(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.name.endswith(".gz") else content


def read_raw(path: str | Path) -> RawNifti:
    """Read a single-file NIfTI-1 or NIfTI-2 file."""
    content = _open(Path(path))
    order = "<" if struct.unpack("<i", content[:4])[0] in (348, 540) else ">"
    if struct.unpack(order + "i", content[:4])[0] == 348:
        dims, code = struct.unpack(order + "8h", content[40:56]), struct.unpack(order + "h", content[70:72])[0]
        offset, slope, intercept = struct.unpack(order + "3f", content[108:120])
    else:
        dims, code = struct.unpack(order + "8q", content[16:80]), struct.unpack(order + "h", content[12:14])[0]
        offset = struct.unpack(order + "q", content[168:176])[0]
        slope, intercept = struct.unpack(order + "2d", content[176:192])
    shape = dims[1 : dims[0] + 1]
    kind = np.dtype(order + CODES[code])
    count = int(np.prod(shape))
    stored = np.frombuffer(content, kind, count, int(offset)).reshape(shape, order="F")
    if not np.isfinite(slope) or slope == 0:  # the standard's way to say that there is no scaling
        slope, intercept = 1.0, 0.0
    return RawNifti(stored, float(slope), float(intercept))


def write_raw(path: Path, stored: np.ndarray, slope: float | None, intercept: float, zooms: tuple[float, ...]) -> None:
    """Write a single-file NIfTI-1 file in the byte order of ``stored``; no slope means no scaling."""
    order = ">" if stored.dtype.byteorder == ">" else "<"
    code = next(code for code, kind in CODES.items() if kind == f"{stored.dtype.kind}{stored.dtype.itemsize}")
    header = bytearray(HEADER)
    struct.pack_into(order + "i", header, 0, 348)
    shape = stored.shape + (1,) * (7 - stored.ndim)
    struct.pack_into(order + "8h", header, 40, stored.ndim, *shape)
    struct.pack_into(order + "2h", header, 70, code, 8 * stored.dtype.itemsize)
    struct.pack_into(order + "8f", header, 76, 1.0, *zooms, *[1.0] * (7 - len(zooms)))
    struct.pack_into(order + "3f", header, 108, HEADER, 0.0 if slope is None else slope, intercept)
    header[123] = 2  # mm
    struct.pack_into(order + "2h", header, 252, 0, 1)
    for row, zoom in enumerate(zooms):
        struct.pack_into(order + "f", header, 280 + 16 * row + 4 * row, zoom)
    header[344:348] = b"n+1\0"
    content = bytes(header) + stored.tobytes(order="F")
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
