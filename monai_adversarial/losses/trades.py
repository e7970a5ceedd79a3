# SPDX-License-Identifier: Apache-2.0
"""The regularizer of TRADES."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.losses.voxelwise import Logits, Reference, VoxelwiseLoss, divergence, log_probabilities
from monai_adversarial.utils.validation import check_positive

__all__ = ["TRADESLoss"]


class TRADESLoss(VoxelwiseLoss):
    """``beta * KL(p(clean) || p(adversarial))``: how much the attack changes the prediction.

    This is the regularizer only; the task loss on the clean image is added by the trainer.

    >>> import torch
    >>> from monai_adversarial.losses import TRADESLoss
    >>> clean, adversarial = torch.rand(2, 3, 8, 8, 8), torch.rand(2, 3, 8, 8, 8)
    >>> divergence = TRADESLoss(beta=1.0)(clean, adversarial)
    >>> torch.allclose(TRADESLoss(beta=6.0)(clean, adversarial), 6 * divergence)
    True
    >>> TRADESLoss()(clean, clean).item() < 1e-6
    True

    Args:
        beta: weight; a higher one trades accuracy on clean images for robustness.
        balanced: every class of a sample (of its label, or of the clean prediction without a label) has the same
            weight, so that small organs count.
        stop_gradient: the clean prediction is a constant; by default both move.
        activation: ``"softmax"``, ``"sigmoid"``, or None for sigmoid with one channel.

    Raises:
        ValueError: for a negative ``beta`` or an unknown ``activation``.

    Source: Zhang et al. 2019, "Theoretically principled trade-off between robustness and accuracy" (beta 6); the
    balanced mean over voxels is an extension.

    Survey entry: D04 (adapted).
    """

    replaces_task_loss = False
    #: what an attack is to leave: the clean answer that the loss compares with
    attack_reference = "probabilities"

    def __init__(
        self,
        beta: float = 6.0,
        balanced: bool = False,
        stop_gradient: bool = False,
        activation: str | None = None,
    ) -> None:
        super().__init__(activation, balanced)
        self.beta = check_positive("beta", beta, allow_zero=True)
        self.stop_gradient = bool(stop_gradient)

    def forward(
        self,
        clean_logits: Logits,
        adversarial_logits: Logits,
        label: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scalar loss.

        Args:
            clean_logits: (batch, channel, spatial...), or a list of several levels.
            adversarial_logits: of the same shape.
            label: class map (batch, 1, spatial...) or one-hot; used by ``balanced`` alone.
            mask: voxels that count (batch, 1, spatial...), for example those that a warp left valid; None for all.
        """
        outputs = {"clean_logits": clean_logits, "adversarial_logits": adversarial_logits}
        return self.mean_over_levels(outputs, label, mask)

    def per_sample(
        self, logits: Sequence[torch.Tensor], label: torch.Tensor | None, mask: torch.Tensor | None, activation: str
    ) -> torch.Tensor:
        clean, adversarial = logits
        clean = clean.detach() if self.stop_gradient else clean
        distance = divergence(log_probabilities(clean, activation), log_probabilities(adversarial, activation))
        return self.beta * Reference(clean, activation, label, mask).average(distance, self.balanced)
