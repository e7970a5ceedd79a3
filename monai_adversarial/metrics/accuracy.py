# SPDX-License-Identifier: Apache-2.0
"""Accuracy of each image: what Dice is to a segmentation."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["share_correct"]


def share_correct(
    prediction: torch.Tensor,
    reference: torch.Tensor,
    classes: int,
    activation: str,
    channels: Sequence[int] | None = None,
    valid: torch.Tensor | None = None,
) -> torch.Tensor:
    """Share of the decisions about each image that are right, (batch,), on the device and without waiting for it.

    With softmax there is one decision: 1.0 for the right class and 0.0 for another. With sigmoid there is one for each
    class, as in the Hamming loss.

    >>> import torch
    >>> from monai_adversarial.metrics.accuracy import share_correct
    >>> share_correct(torch.tensor([[2], [0]]), torch.tensor([[2], [1]]), 3, "softmax").tolist()
    [1.0, 0.0]
    >>> share_correct(torch.tensor([[1, 0, 1]]), torch.tensor([[1, 1, 1]]), 3, "sigmoid")
    tensor([0.6667])

    Args:
        prediction: class numbers (batch, 1, ...) with softmax, decisions of 0 and 1 (batch, class, ...) with sigmoid;
            further axes have size 1.
        reference: class numbers (batch, 1, ...), or one-hot or masks (batch, class, ...).
        classes: the network's outputs.
        activation: ``"softmax"`` or ``"sigmoid"``.
        channels: with sigmoid, the classes to score; None for all.
        valid: boolean (batch, 1, ...), the images that count; None for all. The others are NaN.
    """
    found, true = prediction.flatten(1), reference.flatten(1)
    if activation == "softmax":
        found, true = (part.argmax(dim=1, keepdim=True) if part.shape[1] > 1 else part for part in (found, true))
        right = found.long() == true.long()
    else:
        masks = true.shape[1] > 1 or classes == 1
        true = true > 0 if masks else true.long() == torch.arange(classes, device=true.device)
        right = (found > 0) == true
        if channels is not None:
            right = right[:, list(channels)]
    share = right.to(torch.float32).mean(dim=1)
    return share if valid is None else torch.where(valid.flatten(1)[:, 0], share, torch.nan)
