# SPDX-License-Identifier: Apache-2.0
"""Denoising autoencoder."""

from __future__ import annotations

import torch
from torch import nn

from monai_adversarial.networks.denoising_unet import DenoisingUNet
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.purifiers.learned import LearnedPurifier

__all__ = ["AutoencoderDenoise", "AutoencoderDenoiseD", "AutoencoderDenoiseDict", "AutoencoderDenoised"]


class AutoencoderDenoise(LearnedPurifier):
    """Denoising autoencoder, the reformer of MagNet: a network that was trained to remove Gaussian noise.

    The bundle's ``purifier_autoencoder.yaml`` trains :class:`~monai_adversarial.networks.denoising_unet.DenoisingUNet`
    on noise of mixed strength up to 16 HU, added to scans that have noise of their own. It learns to remove what was
    added, and the scan's own noise only as far as it cannot tell the two apart.

    Differentiable: an attacker goes through it exactly.

    Args:
        weights: see :class:`LearnedPurifier`.
        network: see :class:`LearnedPurifier`; (batch, 1, spatial...) with values 0 to 1, to the same.
        strength: see :class:`LearnedPurifier`.
        window: see :class:`LearnedPurifier`.
        precision: see :class:`LearnedPurifier`.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`; not used.

    Source: Meng and Chen 2017 (MagNet), without the detector.

    Survey entry: P09 (adapted).
    """

    @staticmethod
    def default_network() -> nn.Module:
        """A :class:`DenoisingUNet` for volumes."""
        return DenoisingUNet()

    def reconstruct(self, volume: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """One pass of the network."""
        return self.run_network(volume)


AutoencoderDenoiseD = AutoencoderDenoiseDict = AutoencoderDenoised = dictionary_form(AutoencoderDenoise)
