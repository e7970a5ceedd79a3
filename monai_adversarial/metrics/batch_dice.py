# SPDX-License-Identifier: Apache-2.0
"""Dice of hard segmentations, per sample, on the device and without host synchronization."""

from __future__ import annotations

import torch

__all__ = ["hard_prediction", "mean_foreground_dice"]


def hard_prediction(logits: torch.Tensor, activation: str) -> torch.Tensor:
    """Class map (batch, 1, spatial...) for exclusive classes, masks (batch, class, spatial...) for sigmoid outputs."""
    if activation == "sigmoid":
        return (logits > 0).to(torch.uint8)
    return logits.max(dim=1, keepdim=True).indices  # four times as fast as argmax on a CPU


def mean_foreground_dice(
    prediction: torch.Tensor, reference: torch.Tensor, classes: int, activation: str
) -> torch.Tensor:
    """Mean Dice over the foreground classes, (batch,).

    A class that is absent from both is skipped; absent from the reference but predicted counts 0. All classes skipped:
    NaN.

    Args:
        prediction: as returned by :func:`hard_prediction`.
        reference: class map (batch, 1, spatial...) or masks (batch, class, spatial...).
        classes: the network's output channels.
        activation: ``"softmax"`` (class 0 is background) or ``"sigmoid"`` (every channel is foreground).
    """
    scores = []
    if activation == "softmax" and reference.shape[1] > 1:
        reference = reference.argmax(dim=1, keepdim=True)
    for channel in range(1 if activation == "softmax" else 0, classes):
        if activation == "softmax":
            found, true = prediction == channel, reference == channel
        else:
            found = prediction[:, channel : channel + 1] > 0
            masks = reference.shape[1] > 1 or classes == 1
            true = reference[:, channel : channel + 1] > 0 if masks else reference == channel
        both = (found & true).flatten(1).sum(dim=1)
        size = found.flatten(1).sum(dim=1) + true.flatten(1).sum(dim=1)
        scores.append(2.0 * both / size)  # 0 / 0 is NaN: skipped below
    return torch.stack(scores, dim=1).nanmean(dim=1)
