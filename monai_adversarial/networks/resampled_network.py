# SPDX-License-Identifier: Apache-2.0
"""A network that wants a fixed grid, used on a scan's own voxels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F

__all__ = ["ResampledNetwork"]

INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _resize(volume: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(volume, size=tuple(size), mode=INTERPOLATION[len(size)], align_corners=False)


class ResampledNetwork(nn.Module):
    """Flip and resize the image to the grid a network was trained on, and bring its logits back to the image's grid.

    Both ways are linear and differentiable, so that an attack through this module has its budget on the scanner's
    voxels (HU, mm) although the network sees a resampled volume. The field of view stays the same: the image is
    stretched over the whole network grid.

    >>> import torch
    >>> from monai_adversarial.networks import ResampledNetwork
    >>> class Seen(torch.nn.Conv3d):
    ...     def forward(self, image):
    ...         print("the network sees", tuple(image.shape))
    ...         return super().forward(image)
    >>> network = ResampledNetwork(Seen(1, 2, 1), spatial_size=(16, 16, 16), flip_axes=[0])
    >>> network(torch.rand(1, 1, 20, 24, 10)).shape
    the network sees (1, 1, 16, 16, 16)
    torch.Size([1, 2, 20, 24, 10])

    Args:
        network: image (batch, channel, spatial...) to logits (batch, class, spatial...), of ``spatial_size``.
        spatial_size: voxels of the network's grid along each axis of the image.
        flip_axes: spatial axes (0 is the first after the channels) that the network expects reversed.

    Shape:
        (batch, channel, spatial...) to (batch, class, spatial...), on the same grid.

    Raises:
        ValueError: for a size or an axis that does not fit.
    """

    def __init__(self, network: nn.Module, spatial_size: Sequence[int], flip_axes: Sequence[int] = ()) -> None:
        super().__init__()
        self.spatial_size = tuple(int(size) for size in spatial_size)
        if not 1 <= len(self.spatial_size) <= 3 or min(self.spatial_size) < 1:
            raise ValueError(f"spatial_size must be 1 to 3 positive numbers of voxels, got {tuple(spatial_size)}.")
        if any(not 0 <= axis < len(self.spatial_size) for axis in flip_axes) or len(set(flip_axes)) != len(flip_axes):
            raise ValueError(
                f"flip_axes must be different spatial axes from 0 to {len(self.spatial_size) - 1}, "
                f"got {tuple(flip_axes)}."
            )
        self.network = network
        self.flip_axes = tuple(int(axis) for axis in flip_axes)

    def flip(self, volume: torch.Tensor) -> torch.Tensor:
        """The volume with ``flip_axes`` reversed; its own inverse."""
        return volume.flip([axis + 2 for axis in self.flip_axes]) if self.flip_axes else volume

    def to_network_grid(self, volume: torch.Tensor) -> torch.Tensor:
        """A volume (batch, channel, spatial...) on the network's grid."""
        if volume.ndim != len(self.spatial_size) + 2:
            raise ValueError(
                f"image must have shape (batch, channel, {len(self.spatial_size)} spatial dimensions), "
                f"got {tuple(volume.shape)}."
            )
        return _resize(self.flip(volume), self.spatial_size)

    def from_network_grid(self, volume: torch.Tensor, spatial_size: Sequence[int]) -> torch.Tensor:
        """A volume on the network's grid back on the image's grid of ``spatial_size`` voxels."""
        return self.flip(_resize(volume, spatial_size))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.from_network_grid(self.network(self.to_network_grid(image)), image.shape[2:])
