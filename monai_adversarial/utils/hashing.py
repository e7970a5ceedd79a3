# SPDX-License-Identifier: Apache-2.0
"""Content hashes of files, tensors, networks and settings, and fingerprints of records."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import sys
from collections.abc import Mapping
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_adversarial.utils.modules import bare_network, held_by
from monai_adversarial.utils.plain import as_plain

__all__ = [
    "WITHOUT_EFFECT",
    "case_hash",
    "describe",
    "file_hash",
    "fingerprint",
    "is_of_library",
    "network_hash",
    "tensor_hash",
    "weights_hash",
]

# What changes how an attack runs but not what it finds.
WITHOUT_EFFECT = {"progress", "sw_device", "device"}

# Their versions are in every record, so that their code need not be looked at.
_LIBRARIES = {"ignite", "monai", "monai_adversarial", "numpy", "scipy", "skimage", "torch", "torchvision"}
_LIBRARIES |= sys.stdlib_module_names
# A pipeline inside the transform that inverts it has lists in objects in lists.
_DEEPEST = 40
_PLAIN = (bool, int, float, str, type(None))


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tensor_hash(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's type, shape and values."""
    values = tensor.detach().cpu().contiguous()
    raw = values.reshape(-1).view(torch.uint8) if values.numel() else values
    return hashlib.sha256(f"{values.dtype} {tuple(values.shape)}".encode() + raw.numpy().tobytes()).hexdigest()


def case_hash(image: torch.Tensor, label: torch.Tensor) -> str:
    """SHA-256 of what a case is: voxels, grid (affine of a ``MetaTensor``) and label."""
    affine = getattr(image, "affine", None)
    parts = [as_plain(image), as_plain(label), *([] if affine is None else [torch.as_tensor(affine)])]
    return hashlib.sha256(" ".join(tensor_hash(part) for part in parts).encode()).hexdigest()


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of a network's weights and buffers with their names."""
    digest = hashlib.sha256(type(network).__qualname__.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update((tensor_hash(tensor) if isinstance(tensor, torch.Tensor) else repr(tensor)).encode())
    return digest.hexdigest()


def network_hash(network: nn.Module) -> str:
    """SHA-256 of what a network computes: its weights and buffers, the settings of its layers, and the code of those
    that no library brings.

    Weights alone do not tell ReLU from LeakyReLU, nor a forward pass before and after it was edited: a study that goes
    on in the same folder would report one network with the figures of another.
    """
    digest = hashlib.sha256(weights_hash(network).encode())
    for name, layer in bare_network(network).named_modules():
        settings = {key: describe(value) for key, value in sorted(vars(layer).items()) if _is_setting(key, value)}
        digest.update(json.dumps([name, _described_class(type(layer)), settings], sort_keys=True).encode())
    return digest.hexdigest()


def _is_setting(name: str, value: Any) -> bool:
    """Whether an attribute of a layer says what it computes: numbers, names, functions and tensors that are no
    weights. What it merely keeps, such as a cache of answers, does not."""
    if name.startswith("_") or name in WITHOUT_EFFECT | {"training"}:
        return False
    if isinstance(value, (Mapping, list, tuple)) and not value:  # nothing is kept in it yet
        return False
    return _is_plain(value) or isinstance(value, torch.Tensor) or _is_function(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return all(map(_is_plain, value)) if isinstance(value, (list, tuple)) else isinstance(value, _PLAIN)


def _is_function(value: Any) -> bool:
    return callable(value) and hasattr(value, "__qualname__")


def is_of_library(module: str | None) -> bool:
    """Whether a module, by its name, belongs to a library that an audit knows the version of."""
    return (module or "").partition(".")[0] in _LIBRARIES


def _described_class(kind: type, above: tuple[int, ...] = ()) -> str:
    """A class by its name; one that no library brings by its methods and constants as well."""
    own = [one for one in kind.__mro__ if not is_of_library(one.__module__)]
    if not own:
        return kind.__qualname__
    parts: dict[str, Any] = {}
    for number, one in enumerate(own):
        for name, member in vars(one).items():
            function = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if isinstance(getattr(function, "__code__", None), CodeType):
                parts[f"{number} {name}"] = _described_function(function, above)
            elif not name.startswith("__") and _is_plain(member):
                parts[f"{number} {name}"] = describe(member, above)
    return f"{kind.__qualname__} {fingerprint(parts)}"


def _described_function(function: Any, above: tuple[int, ...]) -> str:
    """A function by its name; one that no library brings, or that has no name of its own, by what it does as well."""
    name = f"{function.__module__}.{function.__qualname__}"
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    if not isinstance(code, CodeType) or (is_of_library(function.__module__) and "<" not in name):
        return name
    known = getattr(function, "__globals__", {})
    used = {one: known[one] for one in code.co_names if one in known and not one.startswith("__")}
    parts = {
        "code": repr(_code_parts(code)),
        "defaults": describe([function.__defaults__, function.__kwdefaults__], above),
        "owner": describe(getattr(function, "__self__", None), above),
        "held": [describe(value, above) for value in held_by(function)],
        "used": {
            one: describe(value, above)
            for one, value in used.items()
            if isinstance(value, (*_PLAIN, nn.Module)) or (_is_function(value) and not isinstance(value, type))
        },
    }
    return f"{name} {fingerprint(parts)}"


def _code_parts(code: CodeType) -> list[Any]:
    """What a function does, without the place where it is written."""
    constants = [
        _code_parts(one)
        if isinstance(one, CodeType)
        else repr(sorted(one, key=repr) if isinstance(one, frozenset) else one)
        for one in code.co_consts
    ]
    return [code.co_code.hex(), constants, code.co_names]


def describe(value: Any, _above: tuple[int, ...] = ()) -> Any:
    """What an object is configured with, for JSON: type and public attributes; tensors and networks as hashes, and what
    no library brings with a hash of its code."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return describe(value.tolist(), _above)
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__} {network_hash(value)}"
    if isinstance(value, torch.Tensor):
        return describe(value.tolist()) if value.numel() <= 16 else f"tensor {tensor_hash(value)}"
    if id(value) in _above or len(_above) > _DEEPEST:
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
    if isinstance(value, functools.partial):
        return ["partial", describe([value.func, value.args, value.keywords], above)]
    if isinstance(value, type):
        return f"{value.__module__}.{_described_class(value, above)}"
    if _is_function(value):
        return _described_function(value, above)
    attributes = getattr(value, "__dict__", {})
    skipped = WITHOUT_EFFECT | ({"weights"} if "weights_hash" in attributes else set())  # content counts, not the path
    public = {k: v for k, v in attributes.items() if not k.startswith("_") and k not in skipped}
    found = {key: describe(public[key], above) for key in sorted(public)}
    return {"type": _described_class(type(value), above)} | found


def fingerprint(parts: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON description: equal fingerprints mean that a unit need not be computed again."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
