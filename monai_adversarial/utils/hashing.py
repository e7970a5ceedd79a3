# SPDX-License-Identifier: Apache-2.0
"""Content hashes of files, tensors, networks and settings, and fingerprints of records."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_adversarial.utils.plain import as_plain

__all__ = ["WITHOUT_EFFECT", "case_hash", "describe", "file_hash", "fingerprint", "network_hash"]

# What changes how an attack runs but not what it finds.
WITHOUT_EFFECT = {"progress", "sw_device", "device"}


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _tensor_hash(tensor: torch.Tensor) -> str:
    values = tensor.detach().cpu().contiguous()
    raw = values.reshape(-1).view(torch.uint8) if values.numel() else values
    return hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode() + raw.numpy().tobytes()).hexdigest()


def case_hash(image: torch.Tensor, label: torch.Tensor) -> str:
    """SHA-256 of what a case is: voxels, grid (affine of a ``MetaTensor``) and label."""
    affine = getattr(image, "affine", None)
    parts = [as_plain(image), as_plain(label), *([] if affine is None else [torch.as_tensor(affine)])]
    return hashlib.sha256(" ".join(_tensor_hash(part) for part in parts).encode()).hexdigest()


def network_hash(network: nn.Module) -> str:
    """SHA-256 of a network's weights and buffers with their names."""
    digest = hashlib.sha256(type(network).__qualname__.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update((_tensor_hash(tensor) if isinstance(tensor, torch.Tensor) else repr(tensor)).encode())
    return digest.hexdigest()


def describe(value: Any, _above: tuple[int, ...] = ()) -> Any:
    """What an object is configured with, for JSON: type and public attributes; tensors and networks as hashes."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return describe(value.tolist(), _above)
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__} {network_hash(value)}"
    if isinstance(value, torch.Tensor):
        return describe(value.tolist()) if value.numel() <= 16 else f"tensor {_tensor_hash(value)}"
    if id(value) in _above or len(_above) > 10:
        return "..."
    above = (*_above, id(value))
    if isinstance(value, Mapping):
        return {str(key): describe(value[key], above) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [describe(item, above) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(describe(item, above)) for item in value)
    if isinstance(value, (os.PathLike, torch.dtype, torch.device)):
        return str(value)
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    attributes = getattr(value, "__dict__", {})
    skipped = WITHOUT_EFFECT | ({"weights"} if "weights_hash" in attributes else set())  # content counts, not the path
    public = {k: v for k, v in attributes.items() if not k.startswith("_") and k not in skipped}
    return {"type": type(value).__qualname__} | describe(public, above)


def fingerprint(parts: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON description: equal fingerprints mean that a unit need not be computed again."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
