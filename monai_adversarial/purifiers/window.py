# SPDX-License-Identifier: Apache-2.0
"""Purifiers that work on a window of HU and leave what lies outside as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from monai_adversarial.utils.intensity import IntensityMap

__all__ = ["SOFT_TISSUE", "check_window", "window_in_image", "within_window"]

#: HU; wider than the usual windows of abdominal networks
SOFT_TISSUE = (-200.0, 300.0)


def check_window(window: Sequence[float]) -> tuple[float, float]:
    """Return ``window`` as two floats (HU) if it is a lower and a higher finite number, else raise ValueError.

    >>> from monai_adversarial.purifiers.window import check_window
    >>> check_window([-160, 240])
    (-160.0, 240.0)
    >>> check_window([240, -160])
    Traceback (most recent call last):
    ValueError: window must be finite and go from low to high (HU), got [240, -160].
    """
    try:
        low, high = (float(value) for value in window)
    except (TypeError, ValueError):
        raise ValueError(f"window must be two numbers (low, high) in HU, got {window!r}.") from None
    if not -float("inf") < low < high < float("inf"):
        raise ValueError(f"window must be finite and go from low to high (HU), got {window!r}.")
    return low, high


def window_in_image(window: tuple[float, float], intensity: IntensityMap | None) -> tuple[float, float]:
    """The window (HU) in the units of the image.

    >>> from monai_adversarial.purifiers.window import window_in_image
    >>> from monai_adversarial.utils.intensity import IntensityMap
    >>> low, high = window_in_image((-160.0, 340.0), IntensityMap.from_window(-160.0, 340.0))
    >>> round(low, 6) == 0, round(high, 6) == 1
    (True, True)
    """
    if intensity is None:
        return window
    low, high = (float(value * intensity.scale + intensity.offset) for value in window)
    return low, high


def within_window(
    operation: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """``image`` with the change that ``operation`` makes to its clipped copy: air and metal neither change nor ring.

    >>> import torch
    >>> from monai_adversarial.purifiers.window import within_window
    >>> within_window(lambda x: x + 5, torch.tensor([-1000.0, 40.0, 900.0]), low=-160.0, high=240.0).tolist()
    [-1000.0, 45.0, 900.0]
    """
    clipped = image.clamp(low, high)
    return torch.where(clipped == image, operation(clipped), image)
