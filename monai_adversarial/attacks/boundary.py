# SPDX-License-Identifier: Apache-2.0
"""The boundary between a user's arrays and an attack's tensors: types, kinds and axes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from monai.inferers import SimpleInferer, SliceInferer, SlidingWindowInferer
from torch import nn

from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.first_batch import check_label_shape, check_same_grid
from monai_adversarial.utils.arrays import StoredAs, as_given, as_tensor, computable
from monai_adversarial.utils.hashing import is_of_library
from monai_adversarial.utils.modules import modules_of, unwrap
from monai_adversarial.utils.validation import WHOLE_SIZES, check_image

__all__ = ["Given", "axes_explained"]

AXES = {1: "x", 2: "x, y", 3: "x, y, z"}


@dataclass(frozen=True)
class Given:
    """A batch as it was handed over, and as an attack computes with it.

    Args:
        image: floating point tensor in the type of the network's weights.
        label: tensor in a type that torch computes with, or None.
        stored: the type in which the adversarial image is handed back.
    """

    image: torch.Tensor
    label: torch.Tensor | None
    stored: StoredAs
    _image: Any
    _label: Any

    @classmethod
    def read(cls, model: AttackedModel, image: Any, label: Any = None, by_queries: bool = False) -> Given:
        """Convert once, and check.

        Args:
            model: the weights' type is that of the computation, the convolutions say how many axes an image has.
            image: tensor, ``MetaTensor`` or array (batch, channel, spatial...) of any real type.
            label: the same for the label, or None.
            by_queries: a network without weights is another runtime, which takes float32.

        Raises:
            TypeError: for something that is no array of real numbers.
            ValueError: for a missing axis, another shape, NaN, or labels that are no whole numbers.
        """
        plain = as_tensor("image", image)
        if plain.dtype == torch.bool:
            raise TypeError("image must hold numbers, got True and False: convert it to float32.")
        _check_axes(model, plain)
        ready = plain.to(_dtype(model, plain, by_queries))
        check_image(ready)
        ready_label = None
        if label is not None:
            ready_label = computable(as_tensor("label", label))
            check_label_shape(model, ready_label, ready)
            check_same_grid(model, image, label)
        return cls(ready, ready_label, StoredAs(plain.dtype), image, label)

    def image_back(self, adversarial: torch.Tensor) -> Any:
        """An image of the attack in the kind, type and device of the given one."""
        return adversarial if self.image is self._image else as_given(adversarial, self._image)

    def label_back(self, moved: torch.Tensor) -> Any:
        """A label of the attack in the kind, type and device of the given one."""
        return moved if self.label is self._label else as_given(moved, self._label)


def _dtype(model: AttackedModel, image: torch.Tensor, by_queries: bool) -> torch.dtype:
    """float32, or float64 where the weights (or, without weights and with gradients, the image) are."""
    for network in modules_of(unwrap(model.network)):
        for weight in network.parameters():
            if weight.is_floating_point():
                return torch.float64 if weight.dtype == torch.float64 else torch.float32
    return torch.float64 if image.dtype == torch.float64 and not by_queries else torch.float32


def _convolutions(model: AttackedModel) -> tuple[int, int] | None:
    """Spatial axes of the network's convolutions and channels of the first one; None where they do not say what an
    image must look like: no convolutions, or an inferer that changes axes."""
    plain_inferer = model.inferer is None or (
        isinstance(model.inferer, (SimpleInferer, SlidingWindowInferer)) and not isinstance(model.inferer, SliceInferer)
    )
    network = unwrap(model.network)
    if not plain_inferer or not isinstance(network, nn.Module):
        return None
    convolutions = [module for module in network.modules() if isinstance(module, nn.modules.conv._ConvNd)]
    if len({len(module.kernel_size) for module in convolutions}) != 1:
        return None
    return len(convolutions[0].kernel_size), convolutions[0].in_channels


def _check_axes(model: AttackedModel, image: torch.Tensor) -> None:
    """Raise for an image with too few axes: torch takes one without a batch axis for a batch of other images."""
    known = _convolutions(model)
    if known is None:
        return
    rank, channels = known
    if image.ndim not in (rank, rank + 1):
        return
    if image.ndim == rank:
        missing, code = "batch and channel axes", "image[None, None]"
    elif channels == 1 and image.shape[0] > 1:
        missing, code = "channel axis", "image[:, None]"
    elif image.shape[1] == channels and rank == 3:
        raise ValueError(
            f"image has {image.ndim} dimensions {tuple(image.shape)}, a batch of slices: a {rank}D network needs whole "
            f"volumes (batch, channel, {AXES[rank]})."
        )
    else:
        missing, code = "batch axis", "image[None]"
    own = not is_of_library(type(unwrap(model.network)).__module__)
    itself = ", or pass inferer=lambda image, network: network(image) where the network adds axes itself" if own else ""
    raise ValueError(
        f"image has {image.ndim} dimensions {tuple(image.shape)}: a {rank}D network needs (batch, channel, "
        f"{AXES.get(rank, 'spatial...')}); add the {missing} with {code}{itself}."
    )


@contextmanager
def axes_explained(model: AttackedModel, image: torch.Tensor) -> Iterator[None]:
    """Say which axis is wrong where a convolution refuses an image."""
    try:
        yield
    except RuntimeError as error:
        known = _convolutions(model)
        whole = known is not None and not isinstance(model.inferer, SlidingWindowInferer)
        if whole and re.search(r"[Ss]izes of tensors must match|size of tensor a", str(error)):
            raise ValueError(f"the network cannot answer an image of {tuple(image.shape)}: {WHOLE_SIZES}.") from error
        if known is None or not re.search(r"conv\dd|to have \d+ channels", str(error)):
            raise
        rank, channels = known
        needs = f"a {rank}D network with {channels} input channels needs (batch, channel, {AXES.get(rank, 'spatial')})"
        shape = tuple(image.shape)
        if image.ndim > rank + 2:
            advice = "run a 2D network over a volume with SliceInferer" if rank == 2 else "remove an axis"
            raise ValueError(f"image has {image.ndim} dimensions {shape}: {needs}; {advice}.") from error
        if image.shape[1] != channels and image.shape[-1] == channels:
            raise ValueError(
                f"image has shape {shape}: {needs}; its channels come last, move them with image.movedim(-1, 1)."
            ) from error
        raise
