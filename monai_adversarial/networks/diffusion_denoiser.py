# SPDX-License-Identifier: Apache-2.0
"""A small diffusion model for the low noise levels of a purification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.utils import OptionalImportError
from torch import nn

from monai_adversarial.networks.half_resolution import CENTER, GAIN, at_half_resolution

__all__ = ["PURIFICATION_SCHEDULE", "DiffusionDenoiser"]

#: Arguments of MONAI's ``DDPMScheduler`` and ``DDIMScheduler``. The noise grows linearly with the time step up to a
#: standard deviation of 0.15 (60 HU in a window of 400 HU): a purification never starts from pure noise, and uniform
#: time steps spend the whole training on the levels that it uses.
PURIFICATION_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "schedule": "linear_beta",
    "beta_start": 1e-7,
    "beta_end": 4.45e-5,
}


class DiffusionDenoiser(nn.Module):
    """MONAI's ``DiffusionModelUNet`` at half resolution (pixel unshuffle), predicting the noise.

    Without the attention in the middle block, so that the cost grows linearly with the volume and large volumes fit
    into memory.

    Args:
        spatial_dims: 2 or 3.
        channels: of the levels; the first level is half the image's resolution.
        num_res_blocks: residual blocks of each level.
        norm_num_groups: groups of the group normalization.

    Raises:
        ImportError: einops, which MONAI's network needs, is not installed; the message names the extra.

    Shape:
        (batch, 1, spatial...) with values from about 0 to 1 and time steps (batch,), to the same shape as the image:
        the noise in units of its standard deviation.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        channels: Sequence[int] = (16, 24),
        num_res_blocks: int = 1,
        norm_num_groups: int = 8,
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.multiple = 2 ** (len(channels) - 1)
        cell = 2**spatial_dims
        try:
            self.unet = DiffusionModelUNet(
                spatial_dims,
                in_channels=cell,
                out_channels=cell,
                num_res_blocks=num_res_blocks,
                channels=tuple(channels),
                attention_levels=(False,) * len(channels),
                norm_num_groups=norm_num_groups,
                num_head_channels=channels[-1],  # of the attention that is taken out again
            )
        except OptionalImportError as error:
            raise ImportError(
                "DiffusionDenoiser needs einops: install the extra 'diffusion' (pip install einops)."
            ) from error
        self.unet.middle_block.attention = nn.Identity()

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        return at_half_resolution(
            lambda cells: self.unet(cells, timesteps, context), (x - CENTER) * GAIN, self.multiple
        )
