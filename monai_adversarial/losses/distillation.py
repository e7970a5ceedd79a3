# SPDX-License-Identifier: Apache-2.0
"""Learning from another network's predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.losses.voxelwise import Logits, Reference, VoxelwiseLoss, divergence, log_probabilities
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["DistillationLoss"]


class DistillationLoss(VoxelwiseLoss):
    """``T^2 * KL(teacher / T || student / T)``, the mean over voxels; no gradient reaches the teacher.

    With the student's logits for the clean image it is distillation, with those for the adversarial image and the
    teacher's for the clean one adversarially robust distillation. The factor T^2 keeps the size of the gradient. This
    is the soft term only: a task loss on the labels is added by the trainer.

    >>> import torch
    >>> from monai_adversarial.losses import DistillationLoss
    >>> student, teacher = torch.rand(1, 3, 8, 8, 8, requires_grad=True), torch.rand(1, 3, 8, 8, 8, requires_grad=True)
    >>> DistillationLoss(temperature=4.0)(student, teacher).backward()
    >>> student.grad is not None, teacher.grad is None
    (True, True)

    Args:
        temperature: T > 0; a higher one shows more of how the teacher ranks the wrong classes.
        balanced: every class of a sample (of its label, or of the teacher's decision without a label) has the same
            weight, so that small organs count.
        confidence: only voxels count in which the teacher's decision has at least this probability (without the
            temperature; with sigmoid, in every channel); None for all. A sample without such voxels has loss 0.
        activation: ``"softmax"``, ``"sigmoid"``, or None for sigmoid with one channel.

    Raises:
        ValueError: for a ``temperature`` that is not positive, a ``confidence`` outside [0, 1] or an unknown
            ``activation``.

    Source: Hinton et al. 2015; Papernot et al. 2016 (defensive distillation); Goldblum et al. 2020 (adversarially
    robust distillation, T 30). The confidence mask is that of FixMatch (Sohn et al. 2020), with the mean over the
    confident voxels only.
    """

    replaces_task_loss = False

    def __init__(
        self,
        temperature: float = 1.0,
        balanced: bool = False,
        confidence: float | None = None,
        activation: str | None = None,
    ) -> None:
        super().__init__(activation, balanced)
        self.temperature = check_positive("temperature", temperature)
        self.confidence = None if confidence is None else check_fraction("confidence", confidence)

    def forward(
        self,
        student_logits: Logits,
        teacher_logits: Logits,
        label: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scalar loss.

        Args:
            student_logits: (batch, channel, spatial...), or a list of several levels.
            teacher_logits: of the same shape.
            label: class map (batch, 1, spatial...) or one-hot; used by ``balanced`` alone.
            mask: voxels that count (batch, 1, spatial...); None for all.
        """
        outputs = {"student_logits": student_logits, "teacher_logits": teacher_logits}
        return self.mean_over_levels(outputs, label, mask)

    def per_sample(
        self, logits: Sequence[torch.Tensor], label: torch.Tensor | None, mask: torch.Tensor | None, activation: str
    ) -> torch.Tensor:
        student, teacher = logits[0], logits[1].detach()
        distance = divergence(
            log_probabilities(teacher / self.temperature, activation),
            log_probabilities(student / self.temperature, activation),
        )
        if self.confidence is not None:
            sure = log_probabilities(teacher, activation).exp().amax(dim=1).amin(dim=1, keepdim=True) >= self.confidence
            mask = sure.to(teacher.dtype) if mask is None else sure * mask.to(teacher.dtype)
        reference = Reference(teacher, activation, label, mask)
        return self.temperature**2 * reference.average(distance, self.balanced)
