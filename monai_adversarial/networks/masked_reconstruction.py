# SPDX-License-Identifier: Apache-2.0
"""A network that tells hidden voxels from visible ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers import Conv
from monai.networks.nets import UNet
from torch import nn

from monai_adversarial.networks.half_resolution import CENTER, GAIN, at_half_resolution
from monai_adversarial.utils.validation import check_count

__all__ = ["MaskedReconstructionUNet"]


class MaskedReconstructionUNet(nn.Module):
    """Hides a part of the image and predicts it from the rest, for each part of a partition in turn.

    Blocks of ``block_size`` voxels are dealt into ``parts`` by the sum of their indices, so that blocks with a common
    face are never hidden together. No voxel of the output depends on the input within its own block.

    In training mode one random part of each sample is replaced by its prediction; in evaluation mode all parts are, one
    pass each. Any image loss against the image itself therefore trains it: voxels that were not hidden contribute
    nothing.

    Args:
        spatial_dims: 2 or 3.
        channels: of the levels; the first level is half the image's resolution.
        num_res_units: convolutions of each residual unit.
        block_size: edge of the hidden blocks in voxels.
        parts: number of parts, the share of hidden voxels is one over it.

    Shape:
        (batch, 1, spatial...) with values from 0 to 1, to the same shape.

    Source: masked autoencoders (He et al. 2022) with a convolutional U-Net in place of the transformer; self-supervised
    training by hidden voxels as in Noise2Self (Batson and Royer 2019).
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        channels: Sequence[int] = (16, 16, 32, 48),
        num_res_units: int = 1,
        block_size: int = 2,
        parts: int = 4,
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.block_size = check_count("block_size", block_size)
        self.parts = check_count("parts", parts, minimum=2)
        self.multiple = 2 ** (len(channels) - 2)
        cell = 2**spatial_dims
        self.unet = UNet(
            spatial_dims,
            in_channels=2 * cell,  # the image and the mask
            out_channels=channels[0],
            channels=tuple(channels),
            strides=(1, *(2 for _ in channels[2:])),
            num_res_units=num_res_units,
            norm="batch",
        )
        self.head = Conv["conv", spatial_dims](channels[0], cell, kernel_size=1)
        nn.init.zeros_(self.head.weight)  # training starts at the middle of the window
        nn.init.zeros_(self.head.bias)

    def partition(self, image: torch.Tensor) -> torch.Tensor:
        """The part of each voxel, (spatial...), integers from 0 to ``parts - 1``."""
        sizes = image.shape[2:]
        part = torch.zeros(sizes, dtype=torch.long, device=image.device)
        for axis, size in enumerate(sizes):
            index = torch.arange(size, device=image.device) // self.block_size
            part = part + index.view([-1 if a == axis else 1 for a in range(len(sizes))])
        return part % self.parts

    def predict(self, image: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The whole image as predicted from the voxels that are not ``hidden``.

        Args:
            image: (batch, 1, spatial...).
            hidden: boolean, (batch or 1, 1, spatial...).
        """
        seen = ((image - CENTER) * GAIN).masked_fill(hidden, 0.0)
        mask = hidden.to(image.dtype).expand_as(image)
        predicted = at_half_resolution(self._predict, torch.cat([seen, mask], dim=1), self.multiple)
        return predicted.to(image.dtype) / GAIN + CENTER  # small numbers around 0 keep their digits in bfloat16

    def _predict(self, cells: torch.Tensor) -> torch.Tensor:
        return self.head(self.unet(cells))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        part = self.partition(image)
        if self.training:
            drawn = torch.randint(self.parts, (image.shape[0],), device=image.device)
            hidden = part[None, None] == drawn.view(-1, *(1 for _ in image.shape[1:]))
            return torch.where(hidden, self.predict(image, hidden), image)
        out = torch.zeros_like(image)
        for number in range(self.parts):
            hidden = (part == number)[None, None]
            out = torch.where(hidden, self.predict(image, hidden), out)
        return out
