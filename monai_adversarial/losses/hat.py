# SPDX-License-Identifier: Apache-2.0
"""Helper-based adversarial training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.losses.voxelwise import (
    Logits,
    Reference,
    VoxelwiseLoss,
    divergence,
    log_probabilities,
    resolve_activation,
)
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_positive

__all__ = ["HATLoss"]


class HATLoss(VoxelwiseLoss):
    """``task_weight * CE(f(x), y) + beta * KL(f(x) || f(x')) + gamma * CE(f(helper), argmax f_standard(x'))``.

    The helper example x + 3.5 * (x' - x) lies further along the attack's direction than the adversarial x'; it gets the
    label that a network without adversarial training (f_standard, frozen) sees in x'. This keeps the decision boundary
    from moving further away from the clean images than robustness needs.

    >>> import torch
    >>> from monai_adversarial.losses import HATLoss
    >>> clean, adversarial, helper, standard = (torch.rand(1, 3, 4, 4, 4) for _ in range(4))
    >>> label = torch.randint(3, (1, 1, 4, 4, 4))
    >>> HATLoss()(clean, adversarial, label, helper_logits=helper, standard_logits=standard).ndim
    0
    >>> HATLoss()(clean, adversarial, label)
    Traceback (most recent call last):
    ValueError: ...

    Args:
        beta: weight of the regularizer of TRADES.
        gamma: weight of the helper term.
        task_weight: weight of cross-entropy on the clean image; 0 where the trainer adds a task loss of its own.
        balanced: every class of a sample has the same weight in each term, so that small organs count: the label's
            classes, in the helper term those of the helper's label.
        activation: ``"softmax"``, ``"sigmoid"``, or None for sigmoid with one channel.

    Attributes:
        replaces_task_loss: True unless ``task_weight`` is 0.

    Raises:
        ValueError: for a negative weight or an unknown ``activation``; in the forward pass when the helper's logits are
            missing.

    Source: Rade and Moosavi-Dezfooli 2022, "Reducing excessive margin to achieve a better accuracy vs. robustness
    trade-off".

    Survey entry: D06 (adapted).
    """

    replaces_task_loss = True

    def __init__(
        self,
        beta: float = 6.0,
        gamma: float = 1.0,
        task_weight: float = 1.0,
        balanced: bool = False,
        activation: str | None = None,
    ) -> None:
        super().__init__(activation, balanced)
        self.beta = check_positive("beta", beta, allow_zero=True)
        self.gamma = check_positive("gamma", gamma, allow_zero=True)
        self.task_weight = check_positive("task_weight", task_weight, allow_zero=True)
        self.replaces_task_loss = self.task_weight > 0

    def forward(
        self,
        clean_logits: Logits,
        adversarial_logits: Logits,
        label: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        *,
        helper_logits: Logits | None = None,
        standard_logits: Logits | None = None,
    ) -> torch.Tensor:
        """Scalar loss.

        Args:
            clean_logits: f(x), (batch, channel, spatial...), or a list of several levels.
            adversarial_logits: f(x'), of the same shape.
            label: class map (batch, 1, spatial...) or one-hot; may be None where ``task_weight`` is 0.
            mask: voxels that count (batch, 1, spatial...); None for all.
            helper_logits: f(helper), of the same shape.
            standard_logits: f_standard(x') (batch, channel, spatial...); of a list, the first.
        """
        if helper_logits is None or standard_logits is None:
            raise ValueError(
                "HATLoss needs helper_logits=f(x + 3.5 * (x' - x)) and standard_logits=f_standard(x'), got None."
            )
        if label is None and self.task_weight > 0:
            raise ValueError("HATLoss needs a label, got None: with task_weight=0 it does without.")
        pair = {"clean_logits": clean_logits, "adversarial_logits": adversarial_logits}
        loss = self.mean_over_levels(pair, label, mask)
        if self.gamma == 0:
            return loss
        helper_label = self._decision(standard_logits)
        return loss + self.gamma * self.mean_over_levels({"helper_logits": helper_logits}, helper_label, mask)

    def _decision(self, logits: Logits) -> torch.Tensor:
        """What the standard network sees: a class map (batch, 1, spatial...), or 0 and 1 in each channel."""
        finest = as_plain(logits[0] if isinstance(logits, (list, tuple)) else logits).detach()  # type: ignore[arg-type]
        if resolve_activation(self.activation, finest) == "softmax":
            return finest.argmax(dim=1, keepdim=True)
        return (finest > 0).to(torch.float32)

    def per_sample(
        self, logits: Sequence[torch.Tensor], label: torch.Tensor | None, mask: torch.Tensor | None, activation: str
    ) -> torch.Tensor:
        reference = Reference(logits[0], activation, label, mask)
        first = log_probabilities(logits[0], activation)
        if len(logits) == 1:  # the helper term
            return reference.average(-reference.pick(first), self.balanced)
        values = self.beta * divergence(first, log_probabilities(logits[1], activation))
        if self.task_weight > 0:
            values = values - self.task_weight * reference.pick(first)
        return reference.average(values, self.balanced)
