# SPDX-License-Identifier: Apache-2.0
"""Where the real scans and networks lie."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["data_folder"]

REPOSITORY = Path(__file__).resolve().parent.parent


def data_folder(given: str | os.PathLike[str] | None = None) -> Path:
    """``given``, MONAI_ADVERSARIAL_DATA, or ``../shared/data`` beside the repository; it need not exist."""
    return Path(given or os.environ.get("MONAI_ADVERSARIAL_DATA") or REPOSITORY.parent / "shared" / "data")
