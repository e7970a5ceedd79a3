# SPDX-License-Identifier: Apache-2.0
"""How visible a change is to a person who looks at the image in its display window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.metrics import PSNRMetric, SSIMMetric

__all__ = ["score_visibility"]


def _volume(values: Any, name: str) -> torch.Tensor:
    volume = torch.as_tensor(values)
    volume = volume.as_tensor() if hasattr(volume, "as_tensor") else volume
    volume = volume.detach().to(dtype=torch.float32)
    while volume.ndim > 2 and volume.shape[0] == 1:
        volume = volume[0]
    if volume.ndim not in (2, 3):
        raise ValueError(f"{name} must be one image with 2 or 3 spatial dimensions, got shape {tuple(volume.shape)}.")
    return volume


def score_visibility(
    image: Any, clean: Any, window: Sequence[float] = (-160.0, 240.0), axial_axis: int = -1
) -> dict[str, float]:
    """Similarity in the display window and size of the change in HU.

    SSIM is computed on the axial slices, as a reader sees them, with the 11 x 11 Gaussian window of the original
    paper (Wang et al. 2004),
    and averaged over slices; PSNR over the volume. Both see the image clipped to the window, with the window's width
    as data range.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.metrics import score_visibility
    >>> model, image, label = example_case(16)
    >>> found = score_visibility(image + 8, image)
    >>> round(found["largest_change_hu"], 3), found["ssim"] < 1, score_visibility(image, image)["psnr_db"]
    (8.0, True, inf)

    Args:
        image: the changed image in HU, (spatial...), leading dimensions of size 1 are ignored.
        clean: the original on the same grid.
        window: lower and upper edge of the display window in HU.
        axial_axis: the spatial axis that runs from feet to head (unused in 2D).

    Returns:
        ``ssim`` (at most 1), ``psnr_db`` (infinite for equal images), ``largest_change_hu`` and ``rms_change_hu``.

    Raises:
        ValueError: for images of different shape or a window without width.

    Source: textbook: SSIM, PSNR and the root mean square of the change.

    Survey entry: M11 (own).
    """
    low, high = (float(edge) for edge in window)
    if not high > low:
        raise ValueError(f"window must give two HU values in rising order, got {tuple(window)}.")
    changed, original = _volume(image, "image"), _volume(clean, "clean")
    if changed.shape != original.shape:
        raise ValueError(
            f"image and clean must have the same shape, got {tuple(changed.shape)} and {tuple(original.shape)}."
        )
    difference = changed.double() - original.double()
    shown, shown_before = (volume.clamp(low, high) - low for volume in (changed, original))
    if original.ndim == 2:
        slices, slices_before = shown[None, None], shown_before[None, None]
    else:
        slices, slices_before = (volume.movedim(axial_axis, 0)[:, None] for volume in (shown, shown_before))
    size = min(11, *slices.shape[2:])
    similarity = SSIMMetric(spatial_dims=2, data_range=high - low, win_size=size - (size + 1) % 2, reduction="none")
    ratio = PSNRMetric(max_val=high - low, reduction="none")
    noise = float(torch.as_tensor(ratio(shown[None, None], shown_before[None, None])))
    return {
        "ssim": float(torch.as_tensor(similarity(slices, slices_before)).mean()),
        "psnr_db": math.inf if torch.equal(shown, shown_before) else noise,
        "largest_change_hu": float(difference.abs().max()),
        "rms_change_hu": float(difference.square().mean().sqrt()),
    }
