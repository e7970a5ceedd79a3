# SPDX-License-Identifier: Apache-2.0
"""Arrays of all kinds and types, as torch can compute with them, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_dst_type

from monai_adversarial.utils.stored_grid import StoredGrid

__all__ = ["StoredAs", "as_given", "as_tensor", "computable", "integer_range"]

# Types that torch stores but hardly computes with.
_WIDER = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}

_HALF = {"float16": torch.float16, "bfloat16": torch.bfloat16}


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


@dataclass(frozen=True)
class StoredAs:
    """The type in which an adversarial image is handed back: what of it survives there, inside the budget.

    Args:
        dtype: of torch or NumPy.
    """

    dtype: Any

    @property
    def whole_numbers(self) -> bool:
        """Whether the type holds whole numbers only."""
        return integer_range(self.dtype) is not None

    @property
    def grid(self) -> StoredGrid | None:
        """The whole numbers of the type; None for floating point types."""
        limits = integer_range(self.dtype)
        return None if limits is None else StoredGrid(low=float(limits[0]), high=float(limits[1]))

    def __call__(self, clean: torch.Tensor, adversarial: torch.Tensor) -> torch.Tensor:
        """``adversarial`` with values that the type holds and no change larger than it was.

        Args:
            clean: the clean image, which the type holds.
            adversarial: the finished image; for a type of whole numbers it holds those already.
        """
        limits = integer_range(self.dtype)
        if limits is not None:
            return adversarial.clamp(*limits)
        half = _HALF.get(str(self.dtype).removeprefix("torch."))
        if half is None:
            return adversarial
        change = adversarial - clean
        nearest = adversarial.to(half).to(adversarial.dtype)
        spacing = torch.ldexp(torch.full_like(nearest, torch.finfo(half).eps / 2), torch.frexp(nearest).exponent)
        inward = (nearest - change.sign() * spacing).to(half).to(adversarial.dtype)
        rounded = torch.where((nearest - clean).abs() > change.abs(), inward, nearest)
        return torch.where((rounded - clean).abs() > change.abs(), clean, rounded)


def as_given(result: torch.Tensor, given: Any) -> Any:
    """``result`` in the kind, type and device of what was given; whole numbers are rounded and stay inside the type."""
    limits = integer_range(given.dtype)
    if limits is not None and result.is_floating_point():
        result = result.round().clamp(*limits)
    if isinstance(given, np.ndarray):
        return result.detach().cpu().numpy().astype(given.dtype)
    return convert_to_dst_type(result, dst=given)[0]
