# SPDX-License-Identifier: Apache-2.0
"""What purifiers with a trained network have in common."""

from __future__ import annotations

import copy
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.window import check_window, window_in_image, within_window
from monai_adversarial.utils.hashing import network_hash
from monai_adversarial.utils.intensity import IntensityMap
from monai_adversarial.utils.precision import PRECISIONS, Precision
from monai_adversarial.utils.validation import check_choice, check_fraction
from monai_adversarial.utils.weights import load_weights

__all__ = ["LearnedPurifier"]


class LearnedPurifier(Purifier):
    """A purifier whose network was trained on images in a window of HU and on a certain grid.

    The image is mapped to the network's values 0 to 1 and clipped to the window, and the network's output is clipped
    to 0 to 1. Voxels within the window (edges included) get it and stay within the window; voxels outside, such as air
    and metal, keep their value exactly. Use it on the grid on which the network was
    trained, as ``ScannerSpaceInferer(PurifiedInferer(SlidingWindowInferer(...), purifier), ...)`` does for the bundle
    ``ct_abdomen_unet``; another spacing is not an error, but nothing the network has seen.

    The network is copied, frozen and in evaluation mode; channels are purified one by one.

    >>> import torch
    >>> from monai_adversarial.transforms import LearnedPurifier
    >>> class TwoPasses(LearnedPurifier):
    ...     default_network = None  # it has no weights of its own
    ...     def reconstruct(self, volume, context):
    ...         return self.run_network(self.run_network(volume))
    >>> halve = torch.nn.Conv2d(1, 1, 1, bias=False)
    >>> torch.nn.init.constant_(halve.weight, 0.5).shape
    torch.Size([1, 1, 1, 1])
    >>> purify = TwoPasses(network=halve, window=(0, 400), precision="float32")
    >>> purify(torch.tensor([[[100.0, 400.0, 900.0]]])).tolist()  # above the window: as it was
    [[[25.0, 100.0, 900.0]]]

    Args:
        weights: checkpoint for the network; None to take ``network`` as it is.
        network: the network; None for the default architecture, which needs ``weights``.
        strength: 0 leaves the image as it is, 1 replaces it within the window by the purified one; between them a
            mixture.
        window: HU of the network's values 0 and 1.
        precision: arithmetic of the network, see :class:`~monai_adversarial.utils.precision.Precision`; the mixture
            is made in the image's own type.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`; not used.

    Raises:
        ValueError: without ``weights`` and ``network``.
        FileNotFoundError: where there are no weights.
    """

    gradient = "exact"

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        network: nn.Module | None = None,
        strength: float = 1.0,
        window: Sequence[float] = (-160.0, 240.0),
        precision: str = "auto",
        intensity: Any = None,
        spacing: Any = None,
    ) -> None:
        super().__init__(intensity, spacing)
        if weights is None and network is None:
            raise ValueError(
                f"{type(self).__name__} needs weights=PATH of a trained network (see the bundle's train_purifier.yaml) "
                "or network=MODULE."
            )
        if network is not None and not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch.nn.Module, got {type(network).__name__}.")
        own = self.default_network() if network is None else copy.deepcopy(network)
        if weights is not None:
            load_weights(own, weights)
        self.weights = None if weights is None else str(weights)
        self.weights_hash = network_hash(own)  # records of a study must not survive a new training
        self.strength = check_fraction("strength", strength)
        self.window = low, high = check_window(window)
        self.precision = check_choice("precision", precision, PRECISIONS)
        self._window = IntensityMap.from_window(low, high)
        self._network = own.requires_grad_(False).eval()
        self._copies: dict[tuple[torch.device, torch.dtype], nn.Module] = {}

    @staticmethod
    @abstractmethod
    def default_network() -> nn.Module:
        """The architecture of the bundle's weights."""

    @abstractmethod
    def reconstruct(self, volume: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """The purified volume.

        Args:
            volume: (batch, channel, spatial...) in the network's values, 0 to 1.
            context: see :py:meth:`Purifier.purify`.
        """

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Replace what lies within the window."""
        self._check_dimensions(image)
        gain, offset, low, high = self._window_of_image()

        def purified(clipped: torch.Tensor) -> torch.Tensor:
            volume = (clipped * gain + offset).clamp(0.0, 1.0)
            change = self.reconstruct(volume, context).clamp(0.0, 1.0) - volume
            # the second clamp only catches rounding
            return (clipped + change * (self.strength / gain)).clamp(low, high)

        return within_window(purified, image, low, high)

    def run_network(self, volume: torch.Tensor) -> torch.Tensor:
        """The network on each channel, in the volume's type."""
        channels = volume.reshape(-1, 1, *volume.shape[2:])
        return self.network_on(volume)(channels).to(volume.dtype).reshape(volume.shape)

    def network_on(self, volume: torch.Tensor) -> nn.Module:
        """The network in ``precision``, on the volume's device."""
        place = (volume.device, volume.dtype)
        if place not in self._copies:
            self._copies[place] = copy.deepcopy(self._network).to(*place)
        return Precision(self.precision, volume).wrap(self._copies[place])

    def _check_dimensions(self, image: torch.Tensor) -> None:
        # MONAI's networks call it one or the other
        for name in ("spatial_dims", "dimensions"):
            dimensions = getattr(self._network, name, None)
            if isinstance(dimensions, int) and image.ndim - 2 != dimensions:
                raise ValueError(
                    f"{type(self).__name__} has a network for {dimensions} spatial dimensions, got an image with "
                    f"{image.ndim - 2}."
                )

    def _window_of_image(self) -> tuple[float, float, float, float]:
        """Gain and offset from the image to the network's values, and the window in the units of the image."""
        given = self.intensity
        gain = float(self._window.scale / (1.0 if given is None else given.scale))
        offset = float(self._window.offset - gain * (0.0 if given is None else given.offset))
        if abs(gain - 1.0) < 1e-6 and abs(offset) < 1e-6:  # they are the network's values already
            return 1.0, 0.0, 0.0, 1.0
        # Rounded, as the voxels on an edge of the window (clipped images have many) belong to it.
        low, high = (round(edge, 9) for edge in window_in_image(self.window, given))
        return gain, offset, low, high
