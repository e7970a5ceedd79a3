# SPDX-License-Identifier: Apache-2.0
"""What an attack returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from monai.utils import convert_to_dst_type

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Measurement, Parameters
from monai_adversarial.utils.plain import as_plain

__all__ = ["AttackResult"]

# Streams of random numbers: restarts use 0, 1, 2, ...
CONTROL_STREAM = 1_000_000


@dataclass
class AttackResult:
    """The outcome of an attack on one batch.

    Args:
        adversarial: perturbed image in the clean image's type; a ``MetaTensor`` keeps its metadata.
        label: reference that belongs to the perturbed anatomy, (batch, 1 or class, spatial...): moved with a geometric
            attack, equal to the given label otherwise; the clean prediction when no label was given.
        parameters: what made the image, one row per sample.
        objective: best value of the objective per sample, (batch,), as the attacker maximizes it. For objectives
            whose values cannot be compared between steps (masked cross-entropy, SegPGD, CosPGD): the share of wrong
            voxels.
        objective_history: the same at each evaluation, (evaluations, batch); NaN where a sample was already solved.
        success: boolean (batch,); see ``Attack.success_threshold``.
        clean_dice: mean foreground Dice before, (batch,); NaN where the reference has no foreground.
        adversarial_dice: mean foreground Dice afterwards against ``label``, (batch,).
        budgets: name -> what was measured on ``adversarial``, with its limit and unit.
        forwards: forward passes, counted per sample, checks included.
        backwards: backward passes, counted per sample.
        queries: forward passes that did not serve a backward pass.
        zero_gradient_fraction: mean share of gradient entries that were exactly zero, (batch,): voxels that a sign step
            could not move.
        reference_is_prediction: scores are against the network's own clean prediction.
        reference_reason: why, in a few words: no label was given, or it could not fit; empty with a label.
        facts: what is known of the attacked model, and where it was read; see ``AttackedModel.facts``.
        image: image channels of the clean batch, plain tensor.
        bound: perturbation tied to the clean batch.
        clean_label: reference that belongs to the clean anatomy.
        image_channels: where ``image`` sits among the input channels; None where it is all of them.
    """

    adversarial: torch.Tensor
    label: torch.Tensor
    parameters: Parameters
    objective: torch.Tensor
    objective_history: torch.Tensor
    success: torch.Tensor
    clean_dice: torch.Tensor
    adversarial_dice: torch.Tensor
    budgets: dict[str, Measurement]
    forwards: int
    backwards: int
    queries: int
    zero_gradient_fraction: torch.Tensor
    reference_is_prediction: bool
    image: torch.Tensor = field(repr=False)
    bound: BoundPerturbation = field(repr=False)
    clean_label: torch.Tensor = field(repr=False)
    image_channels: tuple[int, ...] | None = None
    reference_reason: str = ""
    facts: tuple[str, ...] = ()

    def verify(self, saved: torch.Tensor, rounding: float = 0.0) -> dict[str, Measurement]:
        """Measure the image that was read back from a file and raise where it left the budget.

        Args:
            saved: (batch, channel, spatial...) in the attack's image domain.
            rounding: largest rounding by the file's dtype, in image units: 0.5 for integer HU.

        Raises:
            ValueError: for another shape.
            BudgetError: names the budget that is exceeded.
        """
        plain = as_plain(saved)
        if self.image_channels is not None and plain.shape == self.adversarial.shape:
            plain = plain[:, list(self.image_channels)]
        if plain.shape != self.image.shape:
            raise ValueError(f"saved must have shape {tuple(self.image.shape)}, got {tuple(plain.shape)}.")
        return self.bound.verify(self.image, plain.to(self.image), self.parameters, rounding)

    def random_control(self, stream: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """A random perturbation of the same kind and size: the control that says what is due to the attack.

        Args:
            stream: number of the draw; the same number gives the same draw.

        Returns:
            the perturbed image, in the type of ``adversarial``, and the label moved with it.
        """
        generators = self.bound.scene.generators(CONTROL_STREAM + stream)
        with torch.no_grad():
            parameters = self.bound.random_control(generators, self.parameters)
            image = self.bound.apply(self.image, parameters)
            label = self.bound.move_label(self.clean_label, parameters)
        return convert_to_dst_type(image, dst=self.adversarial)[0], label
