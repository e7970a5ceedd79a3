# SPDX-License-Identifier: Apache-2.0
"""The DICOM libraries, which are an extra, and one way to open a file with them."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["DAMAGED", "highdicom", "one_sentence", "open_dicom", "pydicom", "shown_file"]


# What pydicom and highdicom raise, here and there, for elements that are missing, empty or no numbers.
DAMAGED = (AttributeError, KeyError, IndexError, TypeError, OverflowError, NotImplementedError, EOFError, struct.error)


def _extra(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f'DICOM needs {name}: pip install "monai-adversarial[dicom]".') from error


def pydicom() -> Any:
    """The module pydicom.

    Raises:
        ImportError: where the extra ``dicom`` is not installed.
    """
    return _extra("pydicom")


def highdicom() -> Any:
    """The module highdicom.

    Raises:
        ImportError: where the extra ``dicom`` is not installed.
    """
    return _extra("highdicom")


def shown_file(path: str | os.PathLike[str]) -> str:
    """A file's name with its folder, for a sentence: names of slices repeat from folder to folder."""
    path = Path(path)
    return f"{path.parent.name}/{path.name}" if path.parent.name else path.name


def open_dicom(path: str | os.PathLike[str], **options: Any) -> Any:
    """``pydicom.dcmread`` whose failures are one sentence.

    Raises:
        FileNotFoundError: where there is no file.
        RuntimeError: for a file that is not DICOM or is cut off.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no DICOM file {path}.")
    library = pydicom()
    try:
        return library.dcmread(path, **options)
    except library.errors.InvalidDicomError as error:
        raise RuntimeError(f"{shown_file(path)} is not a DICOM file, or its beginning is damaged.") from error
    except (OSError, ValueError, *DAMAGED) as error:
        raise RuntimeError(f"cannot read {shown_file(path)} as DICOM: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


@contextmanager
def one_sentence(doing: str) -> Iterator[None]:
    """Turn what pydicom raises for a damaged object into a RuntimeError ``cannot <doing>: <reason>.``"""
    try:
        yield
    except (OSError, *DAMAGED) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the file's
            raise
        raise RuntimeError(f"cannot {doing}: {_reason(error)}.") from error
