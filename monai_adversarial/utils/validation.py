# SPDX-License-Identifier: Apache-2.0
"""Checks of what a user hands to an attack: each failure is one sentence that says what was given and what is
expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

__all__ = [
    "WHOLE_SIZES",
    "LabelMisfit",
    "check_choice",
    "check_class_label",
    "check_count",
    "check_flag",
    "check_fraction",
    "check_image",
    "check_instance",
    "check_label",
    "check_label_range",
    "check_logits",
    "check_positive",
    "check_region",
    "holds_booleans",
    "is_class_label",
]

#: what a network that halves and doubles sizes needs, and what gives it
WHOLE_SIZES = (
    "the network halves and doubles sizes, so give the AttackedModel the inferer that you predict with, such as "
    "SlidingWindowInferer((96, 96, 96)), or pad the image (DivisiblePadd)"
)


class LabelMisfit(ValueError):
    """A label that is no segmentation of the image by the network's classes."""


def check_positive(name: str, value: float, allow_zero: bool = False) -> float:
    """Return ``value`` as a float if it is a finite number above zero (or equal to it), else raise ValueError.

    Scalars of NumPy and torch are numbers; booleans and strings are not.
    """
    expected = "a finite number >= 0" if allow_zero else "a finite number > 0"
    try:
        if isinstance(value, (str, bytes)) or holds_booleans(value):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {expected}, got {value!r}.") from None
    if not (0.0 <= number < float("inf")) or (number == 0.0 and not allow_zero):
        raise ValueError(f"{name} must be {expected}, got {value!r}.")
    return number


def check_count(name: str, value: int, minimum: int = 1) -> int:
    """Return ``value`` if it is an integer of at least ``minimum``, else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}.")
    return value


def check_fraction(name: str, value: float) -> float:
    """Return ``value`` as a float if it lies in [0, 1], else raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}.")
    return float(value)


def check_flag(name: str, value: bool | np.bool_) -> bool:
    """Return ``value`` if it is True or False, else raise ValueError: the string "False" would count as True."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}.")
    return bool(value)


def holds_booleans(value: Any) -> bool:
    """Whether a number, array, tensor or (nested) sequence is, or has in it, True or False."""
    if isinstance(value, (list, tuple)):
        return any(holds_booleans(item) for item in value)
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def check_instance(name: str, value: Any, kind: type, example: str) -> Any:
    """Return ``value`` if it is a ``kind``, else raise TypeError that shows an ``example``; a class is named as one, as
    what is missing are the parentheses."""
    if isinstance(value, kind):
        return value
    if isinstance(value, type):
        given = f"the class {value.__name__}"
    elif isinstance(value, (str, int, float)):
        given = repr(value)
    else:
        given = type(value).__name__
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    raise TypeError(f"{name} must be {article} {kind.__name__} such as {example}, got {given}.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``choices``, else raise ValueError that lists them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(repr(c) for c in choices)}, got {value!r}.")
    return str(value)


def check_image(image: Any, name: str = "image") -> None:
    """Raise unless ``image`` is a finite floating point tensor (batch, channel, 1 to 3 spatial dimensions)."""
    if not isinstance(image, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or MetaTensor, got {type(image).__name__}.")
    if not 3 <= image.ndim <= 5:
        raise ValueError(
            f"{name} must have shape (batch, channel, spatial...) with 1 to 3 spatial dimensions, "
            f"got {image.ndim} dimensions with shape {tuple(image.shape)}."
        )
    if image.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(image.shape)}.")
    if image.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 (or float64), got {image.dtype}: convert it with .float() first.")
    if not bool(torch.isfinite(image).all()):
        bad = int((~torch.isfinite(image)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite voxels.")


def check_label(label: Any, image: torch.Tensor, name: str = "label") -> None:
    """Raise unless ``label`` is a class map (batch, 1, spatial...) or one-hot (batch, class, spatial...) on the
    image's grid."""
    if not isinstance(label, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or MetaTensor, got {type(label).__name__}.")
    given, grid = tuple(label.shape), tuple(image.shape[2:])
    if given[:1] != (image.shape[0],) or given[2:] != grid or label.ndim != image.ndim:
        expected = f"({image.shape[0]}, 1 or number of classes, {', '.join(map(str, grid))})"
        missing = {
            (1, *grid): f"; add the batch axis with {name}[None]",
            (image.shape[0], *grid): f"; add the channel axis with {name}[:, None]",
            grid: f"; add the batch and channel axes with {name}[None, None]",
        }
        hint = missing.get(given, "")
        if given[:-1] == (image.shape[0], *grid):
            hint = f"; its channels come last, move them with {name}.movedim(-1, 1)"
        elif given[2:] == tuple(image.shape[1:-1]):
            hint = "; if the image's channels come last, move them with image.movedim(-1, 1)"
        elif not hint and given[:1] == (image.shape[0],) and label.ndim in (image.ndim - 1, image.ndim):
            lacking = "its channel axis is missing (EnsureChannelFirstd), and " if label.ndim < image.ndim else ""
            hint = f"; {lacking}it lies on another grid: transform it as the image, or use ResampleToMatchd"
        raise LabelMisfit(f"{name} must have shape {expected} to fit the image, got {given}{hint}.")
    _check_whole(label, name, "class indices or one-hot")


def is_class_label(label: Any, image: torch.Tensor) -> bool:
    """Whether a label has the shape of one class, or one row of classes, per image."""
    if not isinstance(label, torch.Tensor) or label.ndim not in (1, 2) or label.shape[0] != image.shape[0]:
        return False
    return label.ndim == 1 or image.ndim > 3 or label.shape[1] == 1  # else a class map without its channel axis


def check_class_label(label: Any, image: torch.Tensor, name: str = "label") -> None:
    """Raise unless ``label`` holds class numbers (batch,) or (batch, 1), one-hot rows or masks (batch, class)."""
    if not isinstance(label, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(label).__name__}.")
    if label.ndim not in (1, 2) or label.shape[0] != image.shape[0] or label.numel() == 0:
        raise LabelMisfit(
            f"{name} must hold class numbers ({image.shape[0]},), or one row of classes per image ({image.shape[0]}, "
            f"number of classes), for a classifier, got shape {tuple(label.shape)}."
        )
    _check_whole(label, name, "class numbers or one-hot")


def _check_whole(label: torch.Tensor, name: str, what: str) -> None:
    if not bool(torch.isfinite(label).all()) if label.is_floating_point() else False:
        raise LabelMisfit(f"{name} must be finite, got NaN or infinite values.")
    if label.is_floating_point() and not bool((label == label.round()).all()):
        raise LabelMisfit(f"{name} must hold whole numbers ({what}), got fractions.")


def check_label_range(label: torch.Tensor, classes: int, name: str = "label") -> None:
    """Raise unless the class indices (or the one-hot channels) of ``label`` fit a network with ``classes`` outputs."""
    lowest, highest = int(label.min()), int(label.max())
    if lowest < 0:
        raise LabelMisfit(
            f"{name} must hold class indices >= 0, got {lowest}: a value that marks voxels without a label is the "
            "model's ignore_index."
        )
    if label.shape[1] == 1:
        limit = max(classes - 1, 1)  # one output channel: a sigmoid network with foreground 1
        if highest > limit:
            raise LabelMisfit(
                f"{name} must hold class indices 0 to {limit} for a network with {classes} output channels, got "
                f"{highest}{_label_hint(label, classes, name)}."
            )
    elif label.shape[1] != classes:
        raise LabelMisfit(
            f"{name} is one-hot with {label.shape[1]} channels but the network has {classes} output channels."
        )
    elif highest > 1:
        hint = f": divide it by {highest}" if label.unique().numel() == 2 and int(label.min()) == 0 else ""
        raise LabelMisfit(f"{name} with {classes} channels must be one-hot (0 or 1), got the value {highest}{hint}.")


def _label_hint(label: torch.Tensor, classes: int, name: str) -> str:
    """What label values outside the network's classes usually are."""
    values = [int(value) for value in label.unique().tolist()]
    if values == [0, 255] or values == [255]:
        return f": a mask that is stored as 0 and 255 is {name} > 0 as class indices"
    if values[-1] == 255:
        return ": if 255 marks voxels that do not count, give the AttackedModel ignore_index=255"
    if values[-1] == 4 and classes in (3, 4) and 3 not in values:
        return (
            ": BraTS stores the enhancing tumor as 4; make it 3, or the channels of a network with overlapping "
            "regions with ConvertToMultiChannelBasedOnBratsClasses"
        )
    if len(values) <= max(classes, 2):
        return f": the values {', '.join(map(str, values))} must become 0, 1, 2, ..., as with MapLabelValue"
    return ""


def check_logits(logits: Any, image: torch.Tensor) -> None:
    """Raise unless the attacked function returned a floating point tensor (batch, class, spatial...) on the image's
    grid."""
    if not isinstance(logits, torch.Tensor):
        keys = f" with the keys {', '.join(map(repr, logits))}" if isinstance(logits, Mapping) else ""
        raise TypeError(
            f"the network must return one tensor of logits, got {type(logits).__name__}{keys}: "
            "pass output=<index, key or callable> to the AttackedModel to pick the tensor to attack."
        )
    if logits.ndim != image.ndim or logits.shape[0] != image.shape[0] or logits.shape[2:] != image.shape[2:]:
        raise ValueError(
            f"the network must return logits of shape ({image.shape[0]}, classes, "
            f"{', '.join(map(str, image.shape[2:]))}) on the image's grid, got "
            f"{tuple(logits.shape)}{_of_size(logits, image)}."
        )
    if not logits.is_floating_point():
        raise TypeError(f"the network must return floating point logits, got {logits.dtype} (remove the argmax).")


def _of_size(logits: torch.Tensor, image: torch.Tensor) -> str:
    """What to do where a network answers on a grid of nearly the image's size: it halves and doubles sizes."""
    if logits.ndim != image.ndim or logits.shape[0] != image.shape[0]:
        return ""
    apart = max(abs(got - asked) / asked for got, asked in zip(logits.shape[2:], image.shape[2:], strict=True))
    return f"; {WHOLE_SIZES}" if apart < 0.5 else ""


def check_region(region: torch.Tensor, image: torch.Tensor, name: str = "region") -> torch.Tensor:
    """Return ``region`` as a boolean mask (batch, 1, spatial...) with at least one voxel per sample, else raise."""
    if not isinstance(region, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or MetaTensor, got {type(region).__name__}.")
    expected = (image.shape[0], 1, *image.shape[2:])
    if tuple(region.shape) != expected:
        raise ValueError(f"{name} must have shape {expected} to fit the image, got {tuple(region.shape)}.")
    mask = region.to(device=image.device) > 0
    empty = [i for i, filled in enumerate(mask.flatten(1).any(dim=1).tolist()) if not filled]
    if empty:
        raise ValueError(
            f"{name} must select at least one voxel of every sample, but it is empty for sample {empty[0]}."
        )
    return mask
