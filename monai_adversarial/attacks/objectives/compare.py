# SPDX-License-Identifier: Apache-2.0
"""The comparison that fits the activation and the kind of reference."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.comparison import Comparison
from monai_adversarial.attacks.objectives.hard_softmax import HardSoftmax
from monai_adversarial.attacks.objectives.independent_sigmoid import IndependentSigmoid
from monai_adversarial.attacks.objectives.soft_softmax import SoftSoftmax
from monai_adversarial.attacks.objectives.target import Target

__all__ = ["compare"]


def compare(logits: torch.Tensor, target: Target, totals: bool = False) -> Comparison:
    """Put logits beside their reference, in the cheapest way that is exact.

    >>> import torch
    >>> from monai_adversarial.attacks.objectives import Target, compare
    >>> target = Target.from_label(torch.tensor([[[0, 1, 1]]]), classes=2)
    >>> logits = torch.tensor([[[3.0, -1.0, 2.0], [0.0, 0.0, 0.0]]])
    >>> compare(logits, target).correct().tolist()
    [[[True, True, False]]]

    Args:
        logits: (batch, class, spatial...), float32 or float64.
        target: the reference.
        totals: ``class_sums`` will be needed (computed along with the rest for hard labels).

    Raises:
        ValueError: when the logits do not fit the reference.
    """
    shape = target.voxel_shape
    expected = (shape[0], target.classes, *shape[1:])
    if tuple(logits.shape) != expected:
        raise ValueError(f"logits must have shape {expected} to fit the reference, got {tuple(logits.shape)}.")
    if target.activation == "sigmoid":
        return IndependentSigmoid(logits, target)
    if target.index is None or (target.weight is not None and target.weight.requires_grad):
        return SoftSoftmax(logits, target)
    return HardSoftmax(logits, target, totals)
