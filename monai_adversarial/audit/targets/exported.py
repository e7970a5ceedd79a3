# SPDX-License-Identifier: Apache-2.0
"""Exported and served networks as targets, whichever kind they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.archives import archive_kind, check_file
from monai_adversarial.audit.targets.callables import read_callable
from monai_adversarial.audit.targets.onnx import read_onnx
from monai_adversarial.audit.targets.served import read_served
from monai_adversarial.audit.targets.told_pipeline import PipelineOptions
from monai_adversarial.audit.targets.torch_export import read_torch_export
from monai_adversarial.audit.targets.torchscript import read_torchscript

__all__ = ["PipelineOptions", "read_exported"]

ENDINGS = (".pt2", ".onnx", ".ts", ".pt", ".pth")


def read_exported(
    target: str | os.PathLike[str] | Callable[..., Any],
    options: PipelineOptions | Mapping[str, Any] | None = None,
    *,
    device: torch.device | str | None = None,
    trust: bool = False,
    **arguments: Any,
) -> TargetParts:
    """Read a network that was exported or is served.

    Args:
        target: the path of a ``.pt2`` (``torch.export``), ``.onnx`` or ``.ts``, ``.pt``, ``.pth`` (TorchScript) file;
            a URL (``http://``, ``https://``) of a served model; or a callable. What a ``.pt`` file is, is seen from its
            archive.
        options: what is told of its pipeline: ``PipelineOptions`` or a mapping of them.
        device: where the network runs; None for the GPU where there is one. A served model runs where its server is.
        trust: load pickled objects as well, for files of torch.
        arguments: further ones of ``read_served`` (``model_name`` makes the target a server, also without ``http://``)
            or ``read_callable``.

    Raises:
        TargetError: for what none of them reads.
    """
    if callable(target) and not isinstance(target, (str, os.PathLike)):
        return read_callable(target, options, device=device, **arguments)
    text = os.fspath(target) if isinstance(target, (str, os.PathLike)) else target
    if not isinstance(text, str):
        raise TargetError(f"the target must be a path, a URL or a callable, got {type(target).__name__}.")
    if "://" in text or arguments.get("model_name") is not None:
        return read_served(text, options=options, **arguments)
    ending = Path(text).suffix.lower()
    if ending not in ENDINGS:
        raise TargetError(
            f"{Path(text).name} ends in none of {', '.join(ENDINGS)} and is no URL: not an exported model."
        )
    if ending == ".onnx":
        return read_onnx(text, options, device=device, **arguments)
    file = check_file(text)
    if ending == ".pt2" or archive_kind(file) == "torch.export":
        return read_torch_export(file, options, device=device, trust=trust, **arguments)
    return read_torchscript(file, options, device=device, trust=trust, **arguments)
