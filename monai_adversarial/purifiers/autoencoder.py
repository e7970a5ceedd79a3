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

    >>> import torch
    >>> from monai_adversarial.transforms import AutoencoderDenoise
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case()
    >>> image[0, 0, 5, 5, 5] = 3000.0  # metal is outside the window
    >>> purified = AutoencoderDenoise(network=torch.nn.AvgPool3d(3, stride=1, padding=1))(image[0])
    >>> float(purified[0, 5, 5, 5]), bool(purified[0, 5, 5, 6] == image[0, 0, 5, 5, 6])
    (3000.0, False)

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


AutoencoderDenoiseD = AutoencoderDenoiseDict = AutoencoderDenoised = dictionary_form(
    AutoencoderDenoise,
    """
    >>> import torch
    >>> from monai_adversarial.transforms import AutoencoderDenoised
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case(16)
    >>> blur = torch.nn.AvgPool3d(3, stride=1, padding=1)  # stands for a trained network
    >>> full = AutoencoderDenoised("ct", network=blur)({"ct": image[0]})["ct"]
    >>> half = AutoencoderDenoised("ct", network=blur, strength=0.5)({"ct": image[0]})["ct"]
    >>> bool((half - (full + image[0]) / 2).abs().max() < 0.01)  # HU
    True
    """,
)
