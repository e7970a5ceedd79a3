# SPDX-License-Identifier: Apache-2.0
"""What an engine's ``prepare_batch`` returns, with names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from monai_adversarial.attacks import Attack
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.first_batch import check_label_shape
from monai_adversarial.utils.validation import LabelMisfit

__all__ = ["Batch", "batch_region", "check_sees_as_network", "check_trains", "fitting_label"]


@dataclass
class Batch:
    """A prepared batch.

    Args:
        image: (batch, channel, spatial...).
        label: reference, or what the task has instead.
        args: further positional arguments of the network.
        kwargs: further keyword arguments of the network.
    """

    image: torch.Tensor
    label: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, prepared: Any, label_required: bool = True) -> Batch:
        """Name the parts of what ``prepare_batch`` returned.

        Args:
            prepared: what it returned.
            label_required: whether a batch without a label is refused.

        Raises:
            TypeError: for something else than an image, (image, label) or (image, label, args, kwargs) with a tensor
                image.
            ValueError: for a batch without a label.
        """
        if isinstance(prepared, torch.Tensor) and not label_required:
            return cls(prepared, None)
        if not isinstance(prepared, (tuple, list)) or len(prepared) not in (2, 4):
            raise TypeError(
                "prepare_batch must return (image, label) or (image, label, args, kwargs) to be attacked, "
                f"got {type(prepared).__name__}."
            )
        image, label, *rest = prepared
        if isinstance(image, np.ndarray):
            image = torch.as_tensor(image)
        if not isinstance(image, torch.Tensor):
            raise TypeError(f"the batch's image must be a tensor to be attacked, got {type(image).__name__}.")
        if label is None and label_required:
            raise ValueError("the batch has no label: adversarial training needs one (see prepare_batch).")
        return cls(image, label, *rest) if rest else cls(image, label)

    def with_arguments(self, inferer: Callable[..., Any]) -> Callable[..., Any]:
        """The inferer with the batch's further arguments filled in."""
        if not self.args and not self.kwargs:
            return inferer
        return lambda image, network: inferer(image, network, *self.args, **self.kwargs)


def fitting_label(model: AttackedModel, label: Any, image: torch.Tensor) -> tuple[torch.Tensor | None, str]:
    """A batch's label as an attack reads it.

    Args:
        model: what is attacked.
        label: what ``prepare_batch`` gave: tensor or array, of whole numbers or booleans, or anything else.
        image: the batch's image.

    Returns:
        the label, booleans as 0 and 1, and an empty string; or None and the reason why it cannot be the reference.
    """
    if label is None:
        return None, "the batch has no label"
    if isinstance(label, np.ndarray) and label.dtype.kind in "biuf":
        # Unsigned types that torch hardly knows.
        label = torch.as_tensor(label.astype(np.int64) if label.dtype.kind == "u" else label)
    if not isinstance(label, torch.Tensor):
        return None, f"the batch's label is a {type(label).__name__}"
    label = label.to(image.device)
    if label.dtype == torch.bool:
        label = label.to(torch.uint8)
    try:
        check_label_shape(model, label, image)
    except LabelMisfit as misfit:
        return None, str(misfit).rstrip(".")
    return label, ""


def check_trains(attack: Attack, name: str = "attack") -> None:
    """Refuse attacks that would not make a training adversarial.

    Raises:
        ValueError: for a targeted attack.
    """
    if attack.targeted:
        raise ValueError(
            f"{name} must be untargeted: an attack towards the label would make the batch easier, got targeted=True."
        )


def check_sees_as_network(image_units: str | None, intensity: Any) -> None:
    """Refuse a model that maps the image itself, which a training does not.

    Raises:
        ValueError: for images in HU together with a map.
    """
    if image_units == "HU" and intensity is not None:
        raise ValueError(
            "model must see the image as the trained network does: with image_units='HU' and intensity= it maps the "
            "image itself, which the training would not. Scale in the transforms and tell intensity= alone."
        )


def batch_region(batchdata: Any, key: str | None, image: torch.Tensor) -> torch.Tensor | None:
    """The mask of the voxels that may change, from the batch.

    Raises:
        KeyError: when the batch lacks ``key``.
    """
    if key is None:
        return None
    if not isinstance(batchdata, Mapping) or key not in batchdata:
        keys = list(batchdata) if isinstance(batchdata, Mapping) else type(batchdata).__name__
        raise KeyError(f"region_key {key!r} is not in the batch, which holds {keys}.")
    return torch.as_tensor(batchdata[key]).to(image.device)
