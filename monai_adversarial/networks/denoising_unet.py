# SPDX-License-Identifier: Apache-2.0
"""A small residual U-Net that denoises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers import Conv
from monai.networks.nets import UNet
from torch import nn

from monai_adversarial.networks.half_resolution import CENTER, GAIN, at_half_resolution

__all__ = ["DenoisingUNet"]


class DenoisingUNet(nn.Module):
    """MONAI's ``UNet`` at half resolution (pixel unshuffle) that predicts what to add to the image.

    Args:
        spatial_dims: 2 or 3.
        channels: of the levels; the first level is half the image's resolution.
        num_res_units: convolutions of each residual unit.

    Shape:
        (batch, 1, spatial...) with values from 0 to 1, to the same shape.

    Source: U-Net as in Liao et al. 2018 (high-level guided denoiser), pixel unshuffle as in FFDNet (Zhang et al. 2018).
    """

    def __init__(
        self, spatial_dims: int = 3, channels: Sequence[int] = (16, 16, 32, 48), num_res_units: int = 1
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3) or len(channels) < 2:
            raise ValueError(
                f"spatial_dims must be 2 or 3 and channels at least two levels, got {spatial_dims!r} and "
                f"{tuple(channels)}."
            )
        self.spatial_dims = spatial_dims
        self.multiple = 2 ** (len(channels) - 2)
        cell = 2**spatial_dims
        self.unet = UNet(
            spatial_dims,
            in_channels=cell,
            out_channels=channels[0],
            channels=tuple(channels),
            strides=(1, *(2 for _ in channels[2:])),
            num_res_units=num_res_units,
            norm="batch",
        )
        self.head = Conv["conv", spatial_dims](channels[0], cell, kernel_size=1)
        nn.init.zeros_(self.head.weight)  # training starts at the identity
        nn.init.zeros_(self.head.bias)

    def residual(self, image: torch.Tensor) -> torch.Tensor:
        """What is added to the image, (batch, 1, spatial...)."""
        return at_half_resolution(self._predict, (image - CENTER) * GAIN, self.multiple) / GAIN

    def _predict(self, cells: torch.Tensor) -> torch.Tensor:
        return self.head(self.unet(cells))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image + self.residual(image)
