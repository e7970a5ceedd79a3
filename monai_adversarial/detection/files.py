# SPDX-License-Identifier: Apache-2.0
"""Numbers and a JSON header in one file without pickle."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_adversarial.utils.files import replace_when_complete

__all__ = ["read_state", "write_state"]

HEADER = "header"


def write_state(path: str | os.PathLike[str], header: Mapping[str, Any], state: Mapping[str, torch.Tensor]) -> None:
    """Write tensors and a header to an ``.npz`` file, whole or not at all."""
    text = np.frombuffer(json.dumps(header, allow_nan=False).encode(), dtype=np.uint8)
    arrays: dict[str, Any] = {f"state_{name}": value.cpu().numpy() for name, value in state.items()}
    arrays[HEADER] = text
    with replace_when_complete(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What :func:`write_state` has written.

    Raises:
        FileNotFoundError: where there is no file.
        ValueError: for a file of something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} must be a file that a detector was saved to, and is missing.")
    try:
        with np.load(path, allow_pickle=False) as held:
            header = json.loads(held[HEADER].tobytes().decode())
            return header, {
                name.removeprefix("state_"): torch.from_numpy(held[name]) for name in held.files if name != HEADER
            }
    except (KeyError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} must be a file that a detector was saved to, but it is not: {error}.") from None
