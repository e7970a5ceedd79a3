# SPDX-License-Identifier: Apache-2.0
"""Records as JSON files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_adversarial.utils.files import replace_when_complete

__all__ = ["read_json", "without_nan", "write_json"]


def without_nan(value: Any) -> Any:
    """Replace NaN and infinities by None, which strict JSON can hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return value


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write strict JSON, whole or not at all; NaN and infinities become null."""
    text = json.dumps(without_nan(content), indent=2, allow_nan=False) + "\n"
    with replace_when_complete(path) as temporary:
        temporary.write_text(text)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Content of a JSON file; None where it is missing or not JSON (it will be written again)."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError):
        return None
