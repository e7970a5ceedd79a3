# SPDX-License-Identifier: Apache-2.0
"""What kind of export a file is, seen from its archive: nothing of it is loaded or run."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from monai_adversarial.audit.facts import TargetError

__all__ = ["archive_kind", "check_file", "class_names_of", "extra_file", "pickled_entries"]

#: bytes of an entry that is read as text
MOST_TEXT = 2**22


def check_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that is there.

    Raises:
        TargetError: where there is none, or it is empty.
    """
    file = Path(path)
    if not file.is_file():
        raise TargetError(f"there is no file {file.name}: {file}.")
    if file.stat().st_size == 0:
        raise TargetError(f"{file.name} is empty.")
    return file


def archive_kind(path: str | os.PathLike[str]) -> str:
    """``"TorchScript"``, ``"torch.export"``, ``"pickle"`` (what ``torch.save`` writes) or ``"unknown"``.

    Args:
        path: of the file.
    """
    names = _names(path)
    if names is None:
        with open(path, "rb") as stream:
            return "pickle" if stream.read(2)[:1] == b"\x80" else "unknown"
    inside = {name.split("/", 1)[-1] for name in names}
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return "TorchScript"
    if "archive_format" in inside and any(name.startswith("models/") for name in inside):
        return "torch.export"
    if "serialized_exported_program.json" in inside or "serialized_exported_program.json" in names:
        return "torch.export"
    return "pickle" if "data.pkl" in inside else "unknown"


def _names(path: str | os.PathLike[str]) -> list[str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return None


def extra_file(path: str | os.PathLike[str], name: str) -> Any:
    """A JSON entry that an export carries beside its network (``extra/NAME``), such as the ``metadata.json`` of a MONAI
    bundle's export; None where there is none that can be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(f"extra/{name}") and entry.file_size <= MOST_TEXT:
                    return json.loads(archive.read(entry))
    except (zipfile.BadZipFile, OSError, ValueError, RecursionError):
        return None
    return None


def class_names_of(metadata: Any) -> list[str] | None:
    """Names of the output channels in a MONAI bundle's metadata; None where it has none.

    Args:
        metadata: content of ``metadata.json``.
    """
    try:
        channels = metadata["network_data_format"]["outputs"]["pred"]["channel_def"]
        numbers = sorted(int(number) for number in channels)
        names = [str(channels[str(number)]) for number in numbers]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return names if names and numbers == list(range(len(names))) and len(set(names)) == len(names) else None


def pickled_entries(path: str | os.PathLike[str]) -> list[str]:
    """Entries of a ``torch.export`` archive that are unpickled without restriction when it is loaded: custom objects,
    weights and constants that are no plain tensors, example inputs of unusual types, and all of the format before
    torch 2.8.

    Args:
        path: of the archive.

    Raises:
        TargetError: for a file that is no such archive.
    """
    found: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                inside = entry.filename.split("/", 1)[-1]
                last = inside.rsplit("/", 1)[-1]
                if inside.endswith(("_weights_config.json", "_constants_config.json")):
                    listed = json.loads(archive.read(entry)).get("config", {})
                    found += [name for name, about in listed.items() if about.get("use_pickle") is not False]
                elif inside.startswith("data/sample_inputs/"):
                    found += [] if _is_plain(archive.read(entry)) else [inside]
                elif last.startswith(("custom_obj_", "opaque_obj_")) or last.endswith((".pt", ".pkl")):
                    found.append(inside)
    except (zipfile.BadZipFile, OSError, ValueError, AttributeError, RecursionError) as error:
        raise TargetError(f"{Path(path).name} cannot be read as an archive of torch.export.") from error
    return found


def _is_plain(content: bytes) -> bool:
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # whatever the restricted unpickler does not know
        return not content
    return True
