# SPDX-License-Identifier: Apache-2.0
"""MONAI's patch discriminator with bounded layers."""

from __future__ import annotations

from typing import Any

from monai.networks.nets import PatchDiscriminator
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

__all__ = ["patch_discriminator"]


def patch_discriminator(
    in_channels: int = 1, spatial_dims: int = 3, channels: int = 16, layers: int = 2
) -> PatchDiscriminator:
    """A network that tells real from made patches, with the spectral norm of each convolution held at 1.

    Example:
        >>> import torch
        >>> from monai_adversarial.networks import patch_discriminator
        >>> tuple(patch_discriminator(channels=4)(torch.rand(2, 1, 16, 16, 16))[-1].shape)
        (2, 1, 3, 3, 3)

    Args:
        in_channels: of the image, and of what it is conditioned on.
        spatial_dims: axes of the image.
        channels: of the first layer.
        layers: behind the first one; each but the last halves the grid.

    Source: Isola et al. 2017 (PatchGAN) as MONAI has it; Miyato et al. 2018 (spectral normalization).
    """
    plain: Any = None  # MONAI takes None for no normalization, its annotation does not
    made = PatchDiscriminator(
        spatial_dims,
        channels,
        in_channels,
        num_layers_d=layers,
        kernel_size=4,
        norm=plain,
        bias=True,
        last_conv_kernel_size=3,
    )
    for module in made.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            spectral_norm(module)
    return made
