# SPDX-License-Identifier: Apache-2.0
"""What an engine has of the network's answer, as the attacked function has it."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.output_values import log_odds

__all__ = ["as_logits", "attacked_tensor"]


def attacked_tensor(model: AttackedModel, raw: Any) -> torch.Tensor:
    """The tensor that is attacked and scored, among what the network returned.

    Raises:
        TypeError: where there is none.
    """
    if model.output is not None:
        raw = model.output(raw) if callable(model.output) else raw[model.output]
    elif isinstance(raw, (list, tuple)) and raw:  # several resolutions, the finest first
        raw = raw[0]
    if not isinstance(raw, torch.Tensor):
        raise TypeError(
            f"the network must return one tensor of logits, got {type(raw).__name__}: pass output= to the model."
        )
    return raw


def as_logits(model: AttackedModel, raw: torch.Tensor) -> torch.Tensor:
    """Logits of what the network returned: of one that ends in an activation, those that belong to its
    probabilities."""
    if model.found_output_values != "probabilities":
        return raw
    return log_odds(raw.float(), model.activation_of(int(raw.shape[1])))
