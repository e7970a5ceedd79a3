# SPDX-License-Identifier: Apache-2.0
"""Weights on disk."""

from __future__ import annotations

import os

import torch
from torch import nn

from monai_adversarial.data.saving import replace_when_complete

__all__ = ["save_weights"]


def save_weights(network: nn.Module, path: str | os.PathLike[str]) -> str:
    """Write the state dictionary of ``network``: to a temporary name first, which then takes the place of ``path``.

    Raises:
        OSError: one sentence that names ``path``.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with replace_when_complete(path) as temporary:
        torch.save(state, temporary)
    return str(path)
