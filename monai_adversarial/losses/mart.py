# SPDX-License-Identifier: Apache-2.0
"""Misclassification-aware adversarial training: robustness where the network is wrong already counts more."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_adversarial.losses.voxelwise import Logits, Reference, VoxelwiseLoss, divergence, log_probabilities
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = ["MARTLoss"]

_FORMS = ("boosted", "plain")


class MARTLoss(VoxelwiseLoss):
    """``adversarial term + beta * KL(p || p') * (1 - p_y)``, voxel by voxel.

    p is the clean and p' the adversarial prediction, y the label. The adversarial term of MART, ``"boosted"``, is
    ``-log p'_y - log(1 - max_{k != y} p'_k)``; that of the misclassification-aware medical form (MAAdvT), ``"plain"``,
    is cross-entropy, ``-log p'_y``. It takes the place of the task loss.

    >>> import torch
    >>> from monai_adversarial.losses import MARTLoss
    >>> label = torch.zeros(1, 1, 4, dtype=torch.long)
    >>> right, wrong = torch.tensor([[[5.0] * 4, [-5.0] * 4]]), torch.tensor([[[-5.0] * 4, [5.0] * 4]])
    >>> loss = MARTLoss()
    >>> bool(loss(right, wrong, label) > loss(right, right, label)), loss.replaces_task_loss
    (True, True)

    Args:
        beta: weight of the second term.
        form: ``"boosted"`` or ``"plain"``.
        balanced: every class of a sample's label has the same weight, so that small organs count.
        activation: ``"softmax"``, ``"sigmoid"``, or None for sigmoid with one channel.

    Raises:
        ValueError: for a negative ``beta``, or an unknown ``form`` or ``activation``; in the forward pass without a
            label.

    Source: Wang et al. 2020, "Improving adversarial robustness requires revisiting misclassified examples" (beta 5 or
    6); Xu et al. 2021, "Towards evaluating the robustness of deep diagnostic models by adversarial attack" (plain, beta
    6). With soft labels p_y is the expected probability and y the most probable class: an extension, as is balancing.

    Survey entry: D05 (adapted), D03 (adapted).
    """

    replaces_task_loss = True

    def __init__(
        self, beta: float = 6.0, form: str = "boosted", balanced: bool = False, activation: str | None = None
    ) -> None:
        super().__init__(activation, balanced)
        self.beta = check_positive("beta", beta, allow_zero=True)
        self.form = check_choice("form", form, _FORMS)

    def forward(
        self,
        clean_logits: Logits,
        adversarial_logits: Logits,
        label: torch.Tensor,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scalar loss.

        Args:
            clean_logits: (batch, channel, spatial...), or a list of several levels.
            adversarial_logits: of the same shape.
            label: class map (batch, 1, spatial...) or one-hot, hard or soft, (batch, channel, spatial...).
            mask: voxels that count (batch, 1, spatial...), for example those that a warp left valid; None for all.
        """
        if label is None:
            raise ValueError("MARTLoss needs a label, got None.")
        outputs = {"clean_logits": clean_logits, "adversarial_logits": adversarial_logits}
        return self.mean_over_levels(outputs, label, mask)

    def per_sample(
        self, logits: Sequence[torch.Tensor], label: torch.Tensor | None, mask: torch.Tensor | None, activation: str
    ) -> torch.Tensor:
        clean, adversarial = (log_probabilities(part, activation) for part in logits)
        reference = Reference(logits[0], activation, label, mask)
        values = self.beta * divergence(clean, adversarial) * reference.miss(clean) - reference.pick(adversarial)
        if self.form == "boosted":
            values = values - _log_without_strongest_other(adversarial, reference.choice)
        return reference.average(values, self.balanced)


def _log_without_strongest_other(log_probability: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """``log(1 - max_{k != y} p_k)``, as the log of the sum of all other classes: exact also where p_k is almost 1."""
    others = log_probability.detach().scatter(1, choice.unsqueeze(1), -math.inf)
    strongest = others.argmax(dim=1, keepdim=True)
    return log_probability.scatter(1, strongest, -math.inf).logsumexp(dim=1)
