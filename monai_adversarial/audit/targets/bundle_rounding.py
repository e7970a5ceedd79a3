# SPDX-License-Identifier: Apache-2.0
"""Class numbers that a postprocessing interpolates on their way back onto the image's grid, rounded to classes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from monai.transforms import AsDiscreted, Compose, Invertd, MapTransform
from monai.utils import CommonKeys, ensure_tuple, ensure_tuple_rep

__all__ = ["RoundClassesd", "round_classes"]


class RoundClassesd(MapTransform):
    """Round to whole numbers."""

    def __call__(self, data: Any) -> dict[Hashable, Any]:
        """Round each key."""
        made = dict(data)
        for key in self.key_iterator(made):
            made[key] = torch.round(made[key])
        return made


def round_classes(postprocessing: Any, key: str = CommonKeys.PRED) -> bool:
    """Add a rounding where class numbers are interpolated linearly, and say whether there was need.

    An ``Invertd(nearest_interp=False)`` behind an argmax mixes class numbers: between the classes 0 and 2 it makes a
    rim of values around 1. What is scored is the nearest class, rim included, as it is in the bundle's own files.

    Args:
        postprocessing: of an engine; changed in place.
        key: where the answer is.
    """
    if not isinstance(postprocessing, Compose):
        return False
    steps = list(postprocessing.transforms)
    numbers, place = False, None
    for number, step in enumerate(steps):
        if isinstance(step, AsDiscreted) and key in step.keys:
            one_hot = _of(step, step.to_onehot, key)
            numbers = bool(_of(step, step.argmax, key)) and not (isinstance(one_hot, int) and one_hot > 0)
        elif isinstance(step, Invertd) and key in step.keys and numbers and not _of(step, step.nearest_interp, key):
            place = number
    if place is None:
        return False
    steps.insert(place + 1, RoundClassesd(key))
    postprocessing.transforms = tuple(steps)
    return True


def _of(step: Any, value: Any, key: str) -> Any:
    """A dictionary transform's value for one key."""
    keys = ensure_tuple(step.keys)
    return ensure_tuple_rep(value, len(keys))[keys.index(key)]
