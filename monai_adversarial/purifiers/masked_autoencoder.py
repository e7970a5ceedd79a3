# SPDX-License-Identifier: Apache-2.0
"""Reconstruction by a masked autoencoder."""

from __future__ import annotations

import torch
from torch import nn

from monai_adversarial.networks.masked_reconstruction import MaskedReconstructionUNet
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.purifiers.learned import LearnedPurifier

__all__ = [
    "MaskedAutoencoderReconstruction",
    "MaskedAutoencoderReconstructionD",
    "MaskedAutoencoderReconstructionDict",
    "MaskedAutoencoderReconstructiond",
]


class MaskedAutoencoderReconstruction(LearnedPurifier):
    """Every voxel predicted from its surroundings: hidden blocks are reconstructed, part after part, until all are.

    What an attacker did to a voxel cannot reach the output of its own block, only that of the blocks around it. The
    partition is fixed, not drawn: the operation is deterministic.

    The network is :class:`~monai_adversarial.networks.masked_reconstruction.MaskedReconstructionUNet`, convolutional
    where masked autoencoders usually have a vision transformer. Blocks of 2 voxels (6 to 8 mm) have to be predicted to
    a few HU after minutes of training on some dozen scans, and tokens of 2 voxels would be too many for attention over
    a whole volume. It costs one pass for each part (4 with the default network).

    Differentiable: an attacker goes through it exactly.

    >>> from monai_adversarial.networks.masked_reconstruction import MaskedReconstructionUNet
    >>> from monai_adversarial.transforms import MaskedAutoencoderReconstruction
    >>> from monai_adversarial.data.example import example_case
    >>> _, image, _ = example_case(16)
    >>> untrained = MaskedReconstructionUNet(channels=(4, 4))  # it predicts the middle of the window for every voxel
    >>> MaskedAutoencoderReconstruction(network=untrained, window=(-160, 240))(image[0]).round().unique().tolist()
    [40.0]

    Args:
        weights: see :class:`LearnedPurifier`.
        network: see :class:`LearnedPurifier`; a ``MaskedReconstructionUNet``, or any network that maps (batch, 1,
            spatial...) with values 0 to 1 to its reconstruction.
        strength: see :class:`LearnedPurifier`; below 1 a voxel's own value counts as well.
        window: see :class:`LearnedPurifier`.
        precision: see :class:`LearnedPurifier`.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`; not used.

    Source: He et al. 2022 (masked autoencoders), used as a purifier; the partition and the convolutional network are
    this package's choice.

    Survey entry: P14 (adapted).
    """

    @staticmethod
    def default_network() -> nn.Module:
        """A :class:`MaskedReconstructionUNet` for volumes."""
        return MaskedReconstructionUNet()

    def reconstruct(self, volume: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """One pass for each part of the partition."""
        return self.run_network(volume)


MaskedAutoencoderReconstructionD = MaskedAutoencoderReconstructionDict = MaskedAutoencoderReconstructiond = (
    dictionary_form(
        MaskedAutoencoderReconstruction,
        """
    >>> import torch
    >>> from monai_adversarial.networks.masked_reconstruction import MaskedReconstructionUNet
    >>> from monai_adversarial.transforms import MaskedAutoencoderReconstructiond
    >>> transform = MaskedAutoencoderReconstructiond("image", network=MaskedReconstructionUNet(2, channels=(4, 4)))
    >>> transform({"image": torch.zeros(1, 16, 16), "label": "left alone"})["label"]
    'left alone'
    >>> transform({"image": torch.zeros(1, 16, 16, 16)})
    Traceback (most recent call last):
    ValueError: MaskedAutoencoderReconstruction has a network for 2 spatial dimensions, got an image with 3.
    """,
    )
)
