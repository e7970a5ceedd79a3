# SPDX-License-Identifier: Apache-2.0
"""What a purifier checks of an image before it works on it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor

from monai_adversarial.utils.intensity import MOST_OUTSIDE

if TYPE_CHECKING:
    from monai_adversarial.purifiers.base import Purifier

__all__ = ["MOST_CLASSES", "check_channel_first", "check_few_classes", "check_finite", "check_is_image", "check_units"]

#: more different integers than this are an image, not a label
MOST_CLASSES = 256
# Tissue alone spans hundreds of HU; images scaled for a network stay within a few units.
SCALED = 10.0


def check_is_image(name: str, image: Any, dictionary_form: str) -> None:
    """Raise TypeError unless ``image`` is an array or a tensor.

    >>> from monai_adversarial.purifiers.checks import check_is_image
    >>> check_is_image("img", "ct.nii.gz", "MedianDenoised(keys, ...)")
    Traceback (most recent call last):
    TypeError: img must be an array or a tensor, got str; load it first (LoadImage).
    """
    if not isinstance(image, (np.ndarray, torch.Tensor)):
        hint = f"; in a pipeline of dictionaries use {dictionary_form}" if isinstance(image, dict) else ""
        hint = "; load it first (LoadImage)" if isinstance(image, str) else hint
        raise TypeError(f"{name} must be an array or a tensor, got {type(image).__name__}{hint}.")


def check_channel_first(image: torch.Tensor) -> None:
    """Raise ValueError unless ``image`` is (channel, 1 to 3 spatial dimensions), not empty and finite.

    >>> import torch
    >>> from monai_adversarial.purifiers.checks import check_channel_first
    >>> check_channel_first(torch.zeros(1, 8, 8, 8))
    >>> check_channel_first(torch.zeros(8))
    Traceback (most recent call last):
    ValueError: img must have shape (channel, 1 to 3 spatial dimensions) and hold voxels, got (8,).
    """
    if not 2 <= image.ndim <= 4 or image.numel() == 0:
        raise ValueError(
            f"img must have shape (channel, 1 to 3 spatial dimensions) and hold voxels, got {tuple(image.shape)}."
        )
    if isinstance(image, MetaTensor) and image.ndim == 3:
        loaded = image.meta.get("spatial_shape")
        if loaded is not None and len(loaded) == 3 and tuple(int(n) for n in loaded) == tuple(image.shape):
            raise ValueError(
                f"img must have a channel dimension first, got the whole volume {tuple(image.shape)}: put "
                "EnsureChannelFirst before the purifier."
            )
    check_finite("img", image)


def check_finite(name: str, image: torch.Tensor) -> None:
    """Raise ValueError for NaN and infinities, which purifiers spread over the whole image.

    >>> import torch
    >>> from monai_adversarial.purifiers.checks import check_finite
    >>> check_finite("img", torch.tensor([0.0, float("nan")]))
    Traceback (most recent call last):
    ValueError: img must be finite, got 1 NaN or infinite voxels.
    """
    if image.is_floating_point() and not bool(torch.isfinite(image).all()):
        bad = int((~torch.isfinite(image)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite voxels.")


def check_few_classes(label: torch.Tensor) -> None:
    """Raise ValueError where integers are too many different ones for a label.

    >>> import torch
    >>> from monai_adversarial.purifiers.checks import check_few_classes
    >>> check_few_classes(torch.arange(133))  # an atlas
    >>> check_few_classes(torch.arange(1000))
    Traceback (most recent call last):
    ValueError: img must be floating point to be moved as an image: it holds 1000 different integers, and ...
    """
    if label.dtype not in (torch.bool, torch.uint8, torch.int8) and (count := len(label.unique())) > MOST_CLASSES:
        raise ValueError(
            f"img must be floating point to be moved as an image: it holds {count} different integers, and integers "
            f"are moved as labels of at most {MOST_CLASSES} classes."
        )


def check_units(purifier: Purifier, image: torch.Tensor) -> None:
    """Warn where a purifier that counts in HU gets an image that looks scaled.

    >>> import torch
    >>> from monai_adversarial.purifiers.checks import check_units
    >>> from monai_adversarial.transforms import JPEGCompression
    >>> purifier = JPEGCompression(intensity={"a_min": -160, "a_max": 340})
    >>> check_units(purifier, torch.tensor([0.0, 0.4, 1.0]))
    >>> check_units(purifier, torch.tensor([-1000.0, 40.0, 300.0]))
    Traceback (most recent call last):
    ValueError: JPEGCompression was given intensity=, which maps HU to 0 to 1, but 100% of the image's voxels lie ...

    Raises:
        ValueError: where ``intensity`` is given and the image is not what it maps to.
    """
    name, given = type(purifier).__name__, purifier.intensity
    if not purifier.in_hounsfield:
        return
    low, high = (float(edge) for edge in torch.aminmax(image))
    if given is None:
        if max(abs(low), abs(high)) <= SCALED and high > low:
            warnings.warn(
                f"{name} counts in HU, but the image lies within {low:.3g} to {high:.3g}: if it was scaled, pass "
                "intensity= (the map that scaled it), or purify before scaling.",
                stacklevel=3,
            )
    elif (outside := given.fraction_outside(image)) > MOST_OUTSIDE:
        raise ValueError(
            f"{name} was given intensity=, which maps HU to {given.low:g} to {given.high:g}, but {outside:.0%} of "
            f"the image's voxels lie far outside ({low:.3g} to {high:.3g}): leave intensity out for images in HU."
        )
