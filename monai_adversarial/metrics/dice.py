# SPDX-License-Identifier: Apache-2.0
"""Dice of hard segmentations, with the rule for empty organs written down.

=============  ==============  =============================
in reference   in prediction   Dice
=============  ==============  =============================
yes            yes             as defined
no             no              NaN: skipped by means
no             yes             0, an invented organ
yes            no              0, a missed organ
=============  ==============  =============================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch

from monai_adversarial.utils.slabs import count_true, slabs

__all__ = ["class_dice", "class_map_dtype", "hard_prediction", "mean_foreground_dice", "mean_of_defined", "organ_dice"]


def hard_prediction(logits: torch.Tensor, activation: str) -> torch.Tensor:
    """Class map (batch, 1, spatial...) for exclusive classes, masks (batch, class, spatial...) for sigmoid outputs, in
    the smallest integers that hold the classes.

    >>> import torch
    >>> from monai_adversarial.metrics import hard_prediction
    >>> logits = torch.tensor([[[2.0, -1.0], [0.0, 3.0]]])
    >>> hard_prediction(logits, "softmax").tolist(), hard_prediction(logits, "sigmoid").tolist()
    ([[[0, 1]]], [[[1, 0], [0, 1]]])
    """
    if activation == "sigmoid":
        return (logits > 0).to(torch.uint8)
    indices = logits.max(dim=1, keepdim=True).indices  # four times as fast as argmax on a CPU
    return indices.to(class_map_dtype(logits.shape[1]))


def class_map_dtype(classes: int) -> torch.dtype:
    """The smallest integers that hold the numbers of so many classes."""
    return torch.uint8 if classes <= 256 else torch.int16 if classes <= 2**15 else torch.int32


def class_dice(
    prediction: torch.Tensor,
    reference: torch.Tensor,
    channels: Sequence[int],
    classes: int,
    activation: str,
    valid: torch.Tensor | None = None,
) -> torch.Tensor:
    """Dice per sample and class, (batch, len(channels)), on the device and without host synchronization.

    Args:
        prediction: class map (batch, 1, spatial...), or masks, one-hot or (softmax) scores (batch, class, spatial...).
        reference: class map (batch, 1, spatial...), or one-hot or masks (batch, class, spatial...).
        channels: the classes to score.
        classes: the network's output channels.
        activation: ``"softmax"`` (exclusive classes) or ``"sigmoid"`` (independent channels; a reference of one channel
            is a class map unless the network has one channel).
        valid: boolean (batch, 1, spatial...), the voxels that count; None for all.
    """
    if activation == "softmax":
        prediction, reference = (
            x.argmax(dim=1, keepdim=True) if x.shape[1] > 1 else x for x in (prediction, reference)
        )
        table = _overlaps(prediction, reference, valid, max(classes, *channels, 0) + 1)
        both, found, true = table.diagonal(dim1=1, dim2=2), table.sum(dim=1), table.sum(dim=2)
        where = torch.as_tensor(list(channels), device=table.device)
        return 2.0 * both[:, where] / (found + true)[:, where]  # 0 / 0 is NaN
    masks = reference.shape[1] > 1 or classes == 1
    scores = []
    for channel in channels:
        found = prediction[:, channel : channel + 1] > 0
        true = reference[:, channel : channel + 1] > 0 if masks else reference == channel
        if valid is not None:
            found, true = found & valid, true & valid
        scores.append(2.0 * count_true(found & true) / (count_true(found) + count_true(true)))
    return torch.stack(scores, dim=1)


def _overlaps(
    prediction: torch.Tensor, reference: torch.Tensor, valid: torch.Tensor | None, classes: int
) -> torch.Tensor:
    """Number of voxels (batch, class in the reference, class in the prediction), int64; the last row and column are for
    values that are no class."""
    batch, size = prediction.shape[0], classes + 1
    table = torch.zeros(batch, size * size, dtype=torch.int64, device=prediction.device)
    one = torch.ones((), dtype=torch.int64, device=prediction.device)
    for where in slabs(prediction.shape[2:], batch):
        box = (slice(None), slice(None), *where)
        rows, columns = _class_numbers(reference[box], classes), _class_numbers(prediction[box], classes)
        if valid is not None:
            # Both: a voxel that does not count is of no class in either.
            rows, columns = (torch.where(valid[box], numbers, classes) for numbers in (rows, columns))
        pairs = rows.mul_(size).add_(columns).flatten(1)
        table.scatter_add_(1, pairs, one.expand_as(pairs))
    return table.view(batch, size, size)


def _class_numbers(values: torch.Tensor, classes: int) -> torch.Tensor:
    """Values as int64, those that are no class as ``classes``."""
    numbers = values.long()
    known = (numbers >= 0) & (numbers < classes)
    if values.is_floating_point():
        known &= numbers == values
    return torch.where(known, numbers, classes)


def mean_foreground_dice(
    prediction: torch.Tensor,
    reference: torch.Tensor,
    classes: int,
    activation: str,
    channels: Sequence[int] | None = None,
    valid: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean Dice over the classes where it is defined, (batch,); NaN where it is nowhere.

    >>> import torch
    >>> from monai_adversarial.metrics import mean_foreground_dice
    >>> label = torch.tensor([[[0, 1, 1, 2]]])
    >>> prediction = torch.tensor([[[0, 1, 0, 2]]])
    >>> round(float(mean_foreground_dice(prediction, label, 3, "softmax")), 3)
    0.833

    Args:
        prediction, reference, classes, activation, valid: see :func:`class_dice`.
        channels: the classes to score; None for all foreground classes (with softmax class 0 is the background).
    """
    if channels is None:
        channels = range(1 if activation == "softmax" else 0, classes)
    return class_dice(prediction, reference, channels, classes, activation, valid).nanmean(dim=1)


def organ_dice(
    prediction: torch.Tensor,
    reference: torch.Tensor,
    organs: Mapping[int, str],
    network_classes: int,
    activation: str,
    valid: torch.Tensor | None = None,
) -> dict[str, float]:
    """Dice of one case per organ; NaN for one that is neither in the reference nor in the prediction.

    >>> import torch
    >>> from monai_adversarial.metrics import organ_dice
    >>> label, prediction = torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 1, 0, 0]])
    >>> dice = organ_dice(prediction, label, {1: "liver", 2: "spleen"}, network_classes=3, activation="softmax")
    >>> round(dice["liver"], 3), dice["spleen"]
    (0.667, nan)

    Args:
        prediction: (1, spatial...) class indices, or (class, spatial...) one-hot, masks, or (softmax) scores.
        reference: (1, spatial...) class indices, or (class, spatial...) one-hot or masks.
        organs: channel of the network -> name, of the organs to score.
        network_classes: output channels of the network.
        activation: ``"softmax"`` or ``"sigmoid"``.
        valid: boolean (1, spatial...), the voxels that count; None for all.

    Raises:
        ValueError: for shapes that do not fit each other, and for sigmoid outputs that are not masks.
    """
    allowed = {1, network_classes}
    if (
        prediction.shape[1:] != reference.shape[1:]
        or prediction.shape[0] not in allowed
        or reference.shape[0] not in allowed
    ):
        raise ValueError(
            f"after the postprocessing, prediction and label must have 1 or {network_classes} channels on one grid, "
            f"got shapes {tuple(prediction.shape)} and {tuple(reference.shape)}."
        )
    is_masks = prediction.shape[0] == network_classes and bool(((prediction == 0) | (prediction == 1)).all())
    if activation == "sigmoid" and not is_masks:
        raise ValueError(
            f"after the postprocessing, the prediction of a sigmoid network must be {network_classes} masks of 0 and 1 "
            f"(add AsDiscreted with a threshold), got shape {tuple(prediction.shape)}."
        )
    valid = None if valid is None else valid[None]
    found = class_dice(prediction[None], reference[None], list(organs), network_classes, activation, valid)
    return dict(zip(organs.values(), found[0].tolist(), strict=True))


def mean_of_defined(values: Iterable[float | None]) -> float:
    """Mean of what is neither None nor NaN, whatever the order of the values; NaN where nothing is left."""
    defined = [float(value) for value in values if value is not None and not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
