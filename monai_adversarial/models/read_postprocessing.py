# SPDX-License-Identifier: Apache-2.0
"""Softmax or sigmoid: read from what a pipeline does to the network's answer, and from the loss it was trained with."""

from __future__ import annotations

from typing import Any

import torch
from monai.apps.vista3d.transforms import VistaPostTransformd
from monai.transforms import Activationsd, AsDiscreted
from monai.utils import CommonKeys, ensure_tuple, ensure_tuple_rep
from torch import nn

from monai_adversarial.models.engine_parts import steps_of

__all__ = ["activation_of_loss", "activation_of_postprocessing", "classes_of_postprocessing", "custom_reading"]


def _at(transform: Any, values: Any, key: str) -> Any:
    """A dictionary transform's value for one of its keys; None where it does not work on it."""
    keys = ensure_tuple(transform.keys)
    if key not in keys:
        return None
    return ensure_tuple_rep(values, len(keys))[keys.index(key)]


def activation_of_postprocessing(postprocessing: Any, key: str = CommonKeys.PRED) -> tuple[str, str] | None:
    """Softmax or sigmoid, and the sentence part that says where it was read; None where nothing says it.

    An argmax makes classes exclusive, whatever came before it.

    Args:
        postprocessing: transform of the network's answer.
        key: where the answer is in the engine's output.
    """
    found: tuple[str, str] | None = None
    for number, step in enumerate(steps_of(postprocessing)):
        where = f"`postprocessing#{number}` ({type(step).__name__})"
        if isinstance(step, Activationsd):
            if _at(step, step.softmax, key):
                found = ("softmax", where)
            elif _at(step, step.sigmoid, key):
                found = ("sigmoid", where)
        elif isinstance(step, AsDiscreted):
            if _at(step, step.argmax, key):
                return found if found is not None and found[0] == "softmax" else ("softmax", where)
            if found is None and _at(step, step.threshold, key) is not None:
                found = ("sigmoid", where)
        elif isinstance(step, VistaPostTransformd) and key in step.keys:
            found = ("sigmoid", where)
    return found


def classes_of_postprocessing(postprocessing: Any, key: str = CommonKeys.PRED) -> int | None:
    """The number of classes that an ``AsDiscreted(to_onehot=)`` names; None where none does."""
    for step in steps_of(postprocessing):
        if isinstance(step, AsDiscreted):
            count = _at(step, step.to_onehot, key)
            if isinstance(count, int) and not isinstance(count, bool) and count > 1:
                return count
    return None


def custom_reading(postprocessing: Any, key: str = CommonKeys.PRED) -> str | None:
    """The sentence part that names the first transform of the network's answer that is not MONAI's own; None without.

    Args:
        postprocessing: transform of the network's answer.
        key: where the answer is in the engine's output.
    """
    for number, step in enumerate(steps_of(postprocessing)):
        if not f"{type(step).__module__}.".startswith("monai.") and key in getattr(step, "keys", ()):
            return f"`postprocessing#{number}` ({type(step).__name__})"
    return None


def activation_of_loss(loss: Any) -> tuple[str, str] | None:
    """Softmax or sigmoid as the loss applies it; None for a loss that does not say.

    Args:
        loss: torch's or MONAI's loss, or one that holds such a loss (``DeepSupervisionLoss``, ``DiceCELoss``).
    """
    where = f"the loss ({type(loss).__name__})"
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return "softmax", where
    if isinstance(loss, (nn.BCEWithLogitsLoss, nn.MultiLabelSoftMarginLoss)):
        return "sigmoid", where
    if getattr(loss, "softmax", False) is True or getattr(loss, "use_softmax", False) is True:
        return "softmax", where
    if getattr(loss, "sigmoid", False) is True or getattr(loss, "use_softmax", None) is False:
        return "sigmoid", where
    for name in ("loss", "dice", "loss_function", "ce", "cross_entropy"):
        inner = getattr(loss, name, None)
        if isinstance(inner, (nn.Module, torch.nn.modules.loss._Loss)):
            found = activation_of_loss(inner)
            if found is not None:
                return found[0], where
    return None
