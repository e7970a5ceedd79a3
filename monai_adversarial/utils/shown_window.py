# SPDX-License-Identifier: Apache-2.0
"""The interval of values that a network or a reader sees of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.utils.intensity_map import IntensityMap, Value
from monai_adversarial.utils.scene import Scene

__all__ = ["check_shown_window", "clipped", "shown_window", "window_share"]


def check_shown_window(window: Sequence[float] | None) -> tuple[float, float] | None:
    """``window`` as two floats, or None.

    Raises:
        ValueError: unless it is (low, high) in HU, finite, with low < high.
    """
    if window is None:
        return None
    try:
        low, high = (float(edge) for edge in window)
    except (TypeError, ValueError):
        raise ValueError(f"window must be (low, high) in HU, got {window!r}.") from None
    if not -float("inf") < low < high < float("inf"):
        raise ValueError(f"window must be (low, high) in HU with low < high, got {(low, high)}.")
    return low, high


def shown_window(scene: Scene, window: Sequence[float] | None = None) -> tuple[Value, Value]:
    """Lower and upper edge of the window in image units.

    Args:
        scene: the clean batch.
        window: (low, high) in HU; None for the window of the intensity map. Where an image in network values has no map
            with a window, the window is each sample's and channel's own range.

    Returns:
        Two numbers, or tensors (batch or 1, channel or 1, 1...) where samples or channels differ.

    Raises:
        ValueError: for an image in HU without a window, or a window in HU for network values without a map.
    """
    window, intensity, image = check_shown_window(window), scene.intensity, scene.image
    if scene.image_units == "HU":
        found = window or (None if intensity is None else intensity.window)
        if found is None:
            raise ValueError(
                "window is missing: there is no intensity map with a clipped window, so pass window=(low, high) in HU, "
                "for example the one in which such scans are read."
            )
        return IntensityMap.like(found[0], image), IntensityMap.like(found[1], image)
    if window is not None:
        if intensity is None:
            raise ValueError("window is in HU but the image is in network values: pass intensity= (the map between).")
        edges = [IntensityMap.like(intensity.scale * edge + intensity.offset, image) for edge in window]
        if isinstance(edges[0], torch.Tensor):
            return torch.minimum(*edges), torch.maximum(*edges)
        return min(edges), max(edges)
    if intensity is not None and intensity.window is not None:
        return IntensityMap.like(intensity.low, image), IntensityMap.like(intensity.high, image)
    flat = image.detach().flatten(2)
    low, high = flat.amin(dim=2), flat.amax(dim=2)
    high = torch.where(high > low, high, low + 1)  # a constant image has no range
    return IntensityMap.like(low, image), IntensityMap.like(high, image)


def clipped(image: torch.Tensor, low: Value, high: Value) -> torch.Tensor:
    """The image as the window shows it; values outside count as its edges."""
    return torch.minimum(torch.maximum(image, torch.as_tensor(low).to(image)), torch.as_tensor(high).to(image))


def window_share(image: torch.Tensor, low: Value, high: Value) -> torch.Tensor:
    """Position in the window, 0 at its lower and 1 at its upper edge; values outside count as its edges."""
    return (clipped(image, low, high) - low) / (high - low)
