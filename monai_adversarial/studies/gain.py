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

    >>> from monai_adversarial.attacks import BiasFieldAttack
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.studies import gain_in_percent
    >>> gain = gain_in_percent(BiasFieldAttack(0.1, steps=2)(*example_case()))
    >>> gain.shape, 5 < float(gain.abs().max()) < 10.01
    (torch.Size([32, 32, 32]), True)

    Returns:
        On the CPU; None for another attack than a single bias field.
    """
    if not isinstance(result.bound, BoundBiasField):
        return None
    return (100 * (result.bound.field(result.parameters)[0, 0].exp() - 1)).float().cpu()
