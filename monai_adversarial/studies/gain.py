# SPDX-License-Identifier: Apache-2.0
"""The field that a bias-field attack multiplied with, for pictures."""

from __future__ import annotations

import torch

from monai_adversarial.attacks import AttackResult
from monai_adversarial.attacks.perturbations.bias_field import BoundBiasField

__all__ = ["gain_in_percent"]


@torch.no_grad()
def gain_in_percent(result: AttackResult) -> torch.Tensor | None:
    """The gain of the first sample, (spatial...) in percent: 10 multiplies with 1.1.

    Returns:
        On the CPU; None for another attack than a single bias field.
    """
    if not isinstance(result.bound, BoundBiasField):
        return None
    return (100 * (result.bound.field(result.parameters)[0, 0].exp() - 1)).float().cpu()
