# SPDX-License-Identifier: Apache-2.0
"""Data for attacks: the CT phantom, and saving of adversarial volumes. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Name -> module. Loading on first use keeps `python -m monai_adversarial.data.phantom` quick.
_MODULES = {
    "CLASS_NAMES": "phantom",
    "CTPhantomDataset": "phantom_dataset",
    "ensure_ct_phantoms": "phantom",
    "find_cases": "cases",
    "generate_ct_phantom": "phantom",
    "image_label_pairs": "pairs",
    "split_cases": "pairs",
    "write_ct_phantoms": "phantom",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
