# SPDX-License-Identifier: Apache-2.0
"""Wanted segmentations with other classes on the same voxels: an organ is gone, or is another one."""

from __future__ import annotations

from typing import Any

from monai_adversarial.attacks.targets.segmentations import Segmentations

__all__ = ["empty_organ", "other_organ", "swapped_left_right"]


def empty_organ(segmentation: Any, organ: int) -> Any:
    """The segmentation without an organ: its voxels become background.

    Args:
        segmentation: class map (batch, 1, spatial...), one-hot (batch, class, spatial...) or masks that overlap: a
            tensor, ``MetaTensor`` or array. Usually the network's own clean prediction.
        organ: its class; of overlapping masks, its channel.

    Returns:
        the wanted segmentation, in the form and type of the given one.

    Raises:
        ValueError: where a sample does not contain the organ.

    Example:
        >>> from monai_adversarial.attacks.targets import empty_organ
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> int((empty_organ(label, 1) == 1).sum())
        0
    """
    batch = Segmentations(segmentation)
    batch.check_organ(organ)
    for sample in range(len(batch)):
        batch.put(sample, organ, batch.mask(sample, organ).new_zeros(batch.mask(sample, organ).shape))
    return batch.finish()


def other_organ(segmentation: Any, organ: int, becomes: int) -> Any:
    """The segmentation in which an organ is taken for another one: its voxels get the other's class.

    Args:
        segmentation, organ: see :func:`empty_organ`.
        becomes: the class, or channel, that the voxels get; it need not be in the segmentation.

    Raises:
        ValueError: where a sample does not contain the organ, and where both are the same.

    Example:
        >>> from monai_adversarial.attacks.targets import other_organ
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> wanted = other_organ(label, 1, becomes=2)
        >>> bool(((wanted == 2) == ((label == 1) | (label == 2))).all())
        True
    """
    batch = Segmentations(segmentation)
    batch.check_organ(organ)
    batch.check_organ(becomes, "becomes", needed=False)
    _check_two("organ", organ, "becomes", becomes)
    for sample in range(len(batch)):
        mask, other = batch.mask(sample, organ), batch.mask(sample, becomes)
        batch.put(sample, organ, mask.new_zeros(mask.shape))
        batch.put(sample, becomes, mask | other)
    return batch.finish()


def swapped_left_right(segmentation: Any, left: int, right: int) -> Any:
    """The segmentation in which the two organs of a pair have changed sides, such as the left and the right kidney.

    The masks stay where they are, their classes change places.

    Args:
        segmentation: see :func:`empty_organ`.
        left: class, or channel, of one.
        right: class, or channel, of the other.

    Raises:
        ValueError: where a sample does not contain both, and where both are the same.

    Example:
        >>> from monai_adversarial.attacks.targets import swapped_left_right
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> wanted = swapped_left_right(label, 1, 2)
        >>> bool(((wanted == 1) == (label == 2)).all())
        True
    """
    batch = Segmentations(segmentation)
    batch.check_organ(left, "left")
    batch.check_organ(right, "right")
    _check_two("left", left, "right", right)
    for sample in range(len(batch)):
        first, second = batch.mask(sample, left).clone(), batch.mask(sample, right).clone()
        batch.put(sample, left, second)
        batch.put(sample, right, first)
    return batch.finish()


def _check_two(name: str, first: int, other_name: str, second: int) -> None:
    if first == second:
        raise ValueError(f"{name} and {other_name} must be two organs, got {first} for both.")
