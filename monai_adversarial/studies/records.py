# SPDX-License-Identifier: Apache-2.0
"""Records as JSON files: whole or not there, and told from files that somebody else wrote or changed."""

from __future__ import annotations

import json
import math
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_adversarial.utils.files import replace_when_complete
from monai_adversarial.utils.hashing import fingerprint

__all__ = [
    "FAILED",
    "SEAL",
    "read_json",
    "read_record",
    "safe_name",
    "sealed",
    "without_nan",
    "write_json",
    "write_record",
]

# Key of the sentence in the record of a cell that failed.
FAILED = "failed"
# Bytes of a name in a path; file systems take 255 with all that is put around it.
LONGEST_NAME = 96
# Key of the hash over the rest of a record.
SEAL = "seal"


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
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Content of a JSON file; None where it is missing or not JSON (it will be written again)."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A record or a summary with the hash of its content, which tells it from one that was changed afterwards.

    Args:
        content: plain values, without NaN; a seal that it has counts for nothing.
    """
    plain = {key: value for key, value in content.items() if key != SEAL}
    return {**plain, SEAL: fingerprint(plain)}


def write_record(path: str | os.PathLike[str], content: Mapping[str, Any]) -> dict[str, Any]:
    """Write a record with the hash of its content, and return it as it will be read."""
    plain = sealed(json.loads(json.dumps(without_nan(content), allow_nan=False)))
    write_json(path, plain)
    return plain


def read_record(path: str | os.PathLike[str]) -> tuple[dict[str, Any] | None, bool]:
    """A record, and whether something else lies in its place.

    Returns:
        ``(record, False)`` for a record as it was written, that of a failed cell included; ``(None, False)`` where
        there is no file; ``(None, True)`` for a file that is no record or was changed afterwards.
    """
    if not os.path.lexists(path):
        return None, False
    found = read_json(path)
    if not isinstance(found, dict):
        return None, True
    content = {key: value for key, value in found.items() if key != SEAL}
    try:
        intact = found.get(SEAL) == fingerprint(content)
    except RecursionError:
        intact = False
    return (content, False) if intact else (None, True)


def safe_name(name: str) -> str:
    """A name as part of a path: letters, digits and ``._- ,+=()`` stay; with anything else, and where it is longer than
    a path can take, a checksum keeps different names different.

    Raises:
        TypeError: for something that is no string.
    """
    if not isinstance(name, str):
        raise TypeError(f"a name must be a string, got {type(name).__name__} {name!r:.60}.")
    raw = name.encode("utf-8", "surrogatepass")
    safe = re.sub(r"[^\w.\- ,+=()]", "_", name).strip(" .")
    safe = safe.encode("utf-8")[:LONGEST_NAME].decode("utf-8", "ignore").strip(" .")
    return safe if safe == name and safe else f"{safe}_{zlib.crc32(raw):08x}"
