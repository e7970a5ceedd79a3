# SPDX-License-Identifier: Apache-2.0
"""Small networks for learned purifiers, with random weights that make a visible difference."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from monai_adversarial.networks.denoising_unet import DenoisingUNet
from monai_adversarial.networks.diffusion_denoiser import DiffusionDenoiser
from monai_adversarial.networks.masked_reconstruction import MaskedReconstructionUNet
from monai_adversarial.purifiers.autoencoder import AutoencoderDenoise
from monai_adversarial.purifiers.diffusion import DiffusionPurification
from monai_adversarial.purifiers.high_level_guided import HighLevelGuidedDenoise
from monai_adversarial.purifiers.learned import LearnedPurifier
from monai_adversarial.purifiers.masked_autoencoder import MaskedAutoencoderReconstruction

WINDOW = {"a_min": -160.0, "a_max": 240.0}
LEARNED_PURIFIERS: tuple[type[LearnedPurifier], ...] = (
    AutoencoderDenoise,
    HighLevelGuidedDenoise,
    MaskedAutoencoderReconstruction,
    DiffusionPurification,
)


def small_network(purifier: type[LearnedPurifier], spatial_dims: int = 3) -> nn.Module:
    """An architecture of the right kind, a few hundred weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if purifier is DiffusionPurification:
            network: nn.Module = DiffusionDenoiser(spatial_dims, (4, 4), norm_num_groups=2)
        elif purifier is MaskedAutoencoderReconstruction:
            network = MaskedReconstructionUNet(spatial_dims, (4, 4, 4))
        else:
            network = DenoisingUNet(spatial_dims, (4, 4, 4))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return network


def make(purifier: type[LearnedPurifier], spatial_dims: int = 3, **options: Any) -> LearnedPurifier:
    """A purifier of images in network values, in float32 unless told otherwise."""
    options = {"intensity": WINDOW, "precision": "float32", **options}
    return purifier(network=small_network(purifier, spatial_dims), **options)
