# SPDX-License-Identifier: Apache-2.0
"""What the metadata of a MONAI bundle say: its task, the names of its channels, the versions that it was made with."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_adversarial.audit.facts import TargetError

__all__ = ["channel_names", "check_task", "different_versions", "read_metadata"]

#: package -> key of the metadata
PACKAGES = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
INSTALLED_AS = {"pytorch-ignite": "pytorch-ignite", "pytorch": "torch"}


def read_metadata(file: Path) -> dict[str, Any]:
    """The content of ``metadata.json``; empty where there is none.

    Raises:
        TargetError: for a file that is no JSON object.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TargetError(f"{file.name} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise TargetError(f"{file.name} must hold an object, got {type(content).__name__}.")
    return content


def _outputs(metadata: Mapping[str, Any]) -> dict[str, Any]:
    formats = metadata.get("network_data_format")
    outputs = formats.get("outputs") if isinstance(formats, Mapping) else None
    return dict(outputs) if isinstance(outputs, Mapping) else {}


def check_task(metadata: Mapping[str, Any], name: str) -> None:
    """Refuse a bundle whose metadata name another task than a segmentation; silent where they name none.

    Raises:
        TargetError: for detection, classification, synthesis, registration and landmarks, and for several answers.
    """
    outputs = _outputs(metadata)
    if not outputs:
        return
    said = f"its metadata say {metadata['task']!r}" if isinstance(metadata.get("task"), str) else "by its metadata"
    answer = outputs.get("pred")
    if not isinstance(answer, Mapping):
        raise TargetError(
            f"the bundle {name} does not give one segmentation ({said}, with the outputs {', '.join(outputs)}): only "
            "networks that answer with one segmentation are audited."
        )
    kind, form = str(answer.get("type", "")), str(answer.get("format", ""))
    shape = answer.get("spatial_shape")
    per_image = isinstance(shape, list) and shape[:1] == [1]  # one row of answers for an image
    if kind != "image" or form not in ("segmentation", "labels") or per_image:
        raise TargetError(
            f"the bundle {name} does not segment: {said}, and its output is {kind or 'unnamed'!r} of {form!r}; only "
            "segmentation networks are audited."
        )


def channel_names(metadata: Mapping[str, Any]) -> list[str] | None:
    """The names of the network's output channels in order; None where the metadata do not name them all."""
    answer = _outputs(metadata).get("pred")
    named = answer.get("channel_def") if isinstance(answer, Mapping) else None
    if not isinstance(named, Mapping) or not named:
        return None
    try:
        names = {int(channel): str(text) for channel, text in named.items()}
    except (TypeError, ValueError):
        return None
    return [names[n] for n in range(len(names))] if sorted(names) == list(range(len(names))) else None


def different_versions(metadata: Mapping[str, Any]) -> list[str]:
    """Packages whose installed version is not that of the metadata, for example ``monai 1.4.0 (installed: 1.6.1)``."""
    named = {package: metadata.get(key) for package, key in PACKAGES.items()}
    for key in ("required_packages_version", "optional_packages_version"):
        further = metadata.get(key)
        named |= further if isinstance(further, Mapping) else {}
    different = []
    for package, version in named.items():
        if not isinstance(version, str):
            continue
        try:
            installed = importlib.metadata.version(INSTALLED_AS.get(package, package))
        except importlib.metadata.PackageNotFoundError:
            installed = "none"
        if installed.split("+")[0] != version:
            different.append(f"{package} {version} (installed: {installed})")
    return different
