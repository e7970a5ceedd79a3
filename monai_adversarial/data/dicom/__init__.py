# SPDX-License-Identifier: Apache-2.0
"""DICOM in and out: CT series, their labels, and adversarial series. Names load on first use (extra ``dicom``)."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_MODULES = {
    "CTSeries": "series",
    "CTSeriesReader": "monai_reader",
    "FoundSeries": "find",
    "find_series": "find",
    "holds_dicom": "find",
    "read_label": "label",
    "read_segmentation": "segmentation",
    "read_series": "series",
    "read_structure_set": "structure_set",
    "save_adversarial_series": "writing",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
