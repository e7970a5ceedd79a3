# SPDX-License-Identifier: Apache-2.0
"""Arrays of all kinds and types, as torch can compute with them, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_dst_type

__all__ = ["as_given", "as_tensor", "computable", "integer_range"]

# Types that torch stores but hardly computes with.
_WIDER = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}


def as_tensor(name: str, value: Any) -> torch.Tensor:
    """A tensor as it is; a NumPy array of any byte order and strides as a tensor.

    Raises:
        TypeError: for something else, and for an array that holds no real numbers.
    """
    if isinstance(value, torch.Tensor):
        found = value
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        native = value.astype(np.float64) if value.dtype.itemsize > 8 else value
        native = np.ascontiguousarray(native, dtype=native.dtype.newbyteorder("="))
        found = torch.from_numpy(native if native.flags.writeable else native.copy())
    else:
        given = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(f"{name} must be a torch.Tensor, MetaTensor or NumPy array of real numbers, got {given}.")
    if found.is_complex():
        raise TypeError(f"{name} must hold real numbers, got {found.dtype}.")
    return found


def computable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in the next wider type that torch computes with; itself where its own does."""
    wider = _WIDER.get(tensor.dtype)
    return tensor if wider is None else tensor.to(wider)


def integer_range(dtype: Any) -> tuple[int, int] | None:
    """Lowest and highest whole number of an integer type of torch or NumPy; None for other types."""
    if isinstance(dtype, torch.dtype):
        if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
            return None
        limits = torch.iinfo(dtype)
        return int(limits.min), int(limits.max)
    if np.dtype(dtype).kind not in "iu":
        return None
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def as_given(result: torch.Tensor, given: Any) -> Any:
    """``result`` in the kind, type and device of what was given; whole numbers are rounded and stay inside the type."""
    limits = integer_range(given.dtype)
    if limits is not None and result.is_floating_point():
        result = result.round().clamp(*limits)
    if isinstance(given, np.ndarray):
        return result.detach().cpu().numpy().astype(given.dtype)
    return convert_to_dst_type(result, dst=given)[0]
