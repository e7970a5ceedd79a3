# SPDX-License-Identifier: Apache-2.0
"""High-level representation guided denoiser."""

from __future__ import annotations

from monai_adversarial.purifiers.autoencoder import AutoencoderDenoise
from monai_adversarial.purifiers.dictionary import dictionary_form

__all__ = ["HighLevelGuidedDenoise", "HighLevelGuidedDenoiseD", "HighLevelGuidedDenoiseDict", "HighLevelGuidedDenoised"]


class HighLevelGuidedDenoise(AutoencoderDenoise):
    """High-level representation guided denoiser (HGD): trained so that a segmentation network's outputs do not change.

    The bundle's ``purifier_high_level_guided.yaml`` trains
    :class:`~monai_adversarial.networks.denoising_unet.DenoisingUNet` with
    :class:`~monai_adversarial.losses.HighLevelGuidedLoss` on adversarial examples of mixed kind and strength (up to
    8 HU), noisy and clean scans. It belongs to the network that guided it, and to attacks that do not know it.

    Differentiable: an attacker goes through it exactly.

    >>> import torch
    >>> from monai_adversarial.networks.denoising_unet import DenoisingUNet
    >>> from monai_adversarial.transforms import HighLevelGuidedDenoise
    >>> torch.save(DenoisingUNet().state_dict(), "purifier.pt")
    >>> HighLevelGuidedDenoise("purifier.pt")(torch.zeros(1, 16, 16, 16)).shape
    torch.Size([1, 16, 16, 16])
    >>> HighLevelGuidedDenoise()
    Traceback (most recent call last):
    ValueError: HighLevelGuidedDenoise needs weights=PATH of a trained network (see the bundle's ...

    Args:
        weights: see :class:`LearnedPurifier`.
        network: see :class:`LearnedPurifier`; (batch, 1, spatial...) with values 0 to 1, to the same.
        strength: see :class:`LearnedPurifier`.
        window: see :class:`LearnedPurifier`.
        precision: see :class:`LearnedPurifier`.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`; not used.

    Source: Liao et al. 2018, winner of the defense track of NIPS 2017.

    Survey entry: P08 (adapted).
    """


HighLevelGuidedDenoiseD = HighLevelGuidedDenoiseDict = HighLevelGuidedDenoised = dictionary_form(
    HighLevelGuidedDenoise,
    """
    >>> from monai_adversarial.transforms import HighLevelGuidedDenoised
    >>> HighLevelGuidedDenoised("image", weights="nowhere/purifier.pt")
    Traceback (most recent call last):
    FileNotFoundError: ...nowhere/purifier.pt...
    """,
)
