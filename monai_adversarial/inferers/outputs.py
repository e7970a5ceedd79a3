# SPDX-License-Identifier: Apache-2.0
"""What networks return: one tensor or several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["map_outputs"]


def map_outputs(function: Callable[[torch.Tensor], torch.Tensor], outputs: Any) -> Any:
    """Apply ``function`` to a tensor, to each value of a mapping, or to each item of a sequence (which becomes a
    tuple)."""
    if isinstance(outputs, torch.Tensor):
        return function(outputs)
    if isinstance(outputs, Mapping):
        return {key: function(value) for key, value in outputs.items()}
    return tuple(function(value) for value in outputs)
