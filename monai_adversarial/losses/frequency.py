# SPDX-License-Identifier: Apache-2.0
"""Training against frequency attacks: right about their images, with the same spectrum of answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.attacks.objectives import Progress, get_objective
from monai_adversarial.losses.voxelwise import Logits, Reference, VoxelwiseLoss
from monai_adversarial.purifiers.discrete_cosine import blockwise_dct, pad_to_blocks
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["FrequencyConsistencyLoss"]


class FrequencyConsistencyLoss(VoxelwiseLoss):
    """``Dice loss of Z' + weight * mean |DCT(Z) - DCT(Z')|`` of the clean logits Z and the adversarial ones Z'.

    With the trainer's own loss on clean images it is volumetric adversarial frequency training (VAFT):
    ``AdversarialLossTerm(VAFA(), FrequencyConsistencyLoss())``.

    >>> import torch
    >>> from monai_adversarial.losses import FrequencyConsistencyLoss
    >>> clean, other = torch.randn(1, 3, 8, 8, 8), torch.randn(1, 3, 8, 8, 8)
    >>> label = torch.randint(0, 3, (1, 1, 8, 8, 8))
    >>> loss = FrequencyConsistencyLoss(block_size=8)
    >>> bool(loss(clean, other, label) > loss(other, other, label))
    True

    Args:
        weight: of the second term, 1 in the paper.
        block_size: voxels along each axis of a block of the cosine transform; volumes that do not hold whole blocks
            continue with their border values.
        activation: ``"softmax"``, ``"sigmoid"``, or None for sigmoid with one channel.

    Raises:
        ValueError: for a weight or a block out of range; in the forward pass without a label.

    Source: Hanif et al., "Frequency domain adversarial training for robust volumetric medical segmentation", MICCAI
    2023. The mean over coefficients instead of their sum and blocks instead of whole volumes are ours; so is the Dice
    loss, over the foreground and without cross-entropy.

    Survey entry: X02 (adapted).
    """

    replaces_task_loss = False

    def __init__(self, weight: float = 1.0, block_size: int = 32, activation: str | None = None) -> None:
        super().__init__(activation)
        self.weight = check_positive("weight", weight, allow_zero=True)
        self.block_size = check_count("block_size", block_size)
        self.dice = get_objective("dice")

    def forward(self, clean_logits: Logits, adversarial_logits: Logits, label: torch.Tensor) -> torch.Tensor:
        """Scalar loss.

        Args:
            clean_logits: (batch, channel, spatial...), or a list of several levels.
            adversarial_logits: of the same shape.
            label: class map (batch, 1, spatial...) or one-hot, hard or soft, (batch, channel, spatial...).
        """
        if label is None:
            raise ValueError("FrequencyConsistencyLoss needs a label, got None.")
        outputs = {"clean_logits": clean_logits, "adversarial_logits": adversarial_logits}
        return self.mean_over_levels(outputs, label, None)

    def per_sample(
        self, logits: Sequence[torch.Tensor], label: torch.Tensor | None, mask: torch.Tensor | None, activation: str
    ) -> torch.Tensor:
        clean, adversarial = logits
        target = Reference(adversarial, activation, label, mask).target
        block = (self.block_size,) * (clean.ndim - 2)
        # The transform is linear: the difference of two is that of the difference.
        change = blockwise_dct(pad_to_blocks(clean - adversarial, block), block)
        dice = self.dice.value(adversarial, target, Progress(0, 1))
        return dice + self.weight * change.abs().flatten(1).mean(dim=1)
