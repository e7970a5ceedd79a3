# SPDX-License-Identifier: Apache-2.0
"""Anatomy and appearance from a generator that is told how much Dice shall be lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.attacks import Dice, HardDice, Objective
from monai_adversarial.attacks.objectives import Progress, Target
from monai_adversarial.attacks.perturbations import BoundPerturbation
from monai_adversarial.attacks.recipes.geometric_intensity import geometric_intensity
from monai_adversarial.generators.generated_attack import GeneratedAttack
from monai_adversarial.generators.made import Made
from monai_adversarial.generators.training import Settings
from monai_adversarial.utils.validation import check_fraction, check_positive

__all__ = ["ChenAttack"]


def _roughness(parameter: torch.Tensor, axes: int) -> torch.Tensor:
    """Mean squared difference of neighbors along each axis of a grid, (batch,)."""
    total = parameter.new_zeros(parameter.shape[0])
    for axis in range(parameter.ndim - axes, parameter.ndim):
        if parameter.shape[axis] > 1:
            total = total + parameter.diff(dim=axis).square().flatten(1).mean(dim=1)
    return total


class _Smoothness:
    """What rough velocities and strong or rough shading cost, as shares of the budget."""

    def __init__(self, velocity: float, intensity: float) -> None:
        self.velocity, self.intensity = velocity, intensity

    def __call__(
        self, bound: BoundPerturbation, made: Made, changed: torch.Tensor, label: torch.Tensor | None
    ) -> torch.Tensor:
        axes = changed.ndim - 2
        velocity, intensity = (
            part / radius.clamp_min(torch.finfo(part.dtype).tiny)
            for part, radius in zip(made.parameters, bound.radii, strict=True)
        )
        shading = intensity.flatten(1).square().mean(dim=1) + _roughness(intensity, axes)
        return self.velocity * _roughness(velocity, axes) + self.intensity * shading


class _RankedByDecision(Objective):
    """Soft Dice to differentiate, and the Dice of the decision to hold at a prescribed value: a network that is unsure
    of itself has a soft Dice far below what is scored."""

    def __init__(self) -> None:
        self.soft, self.hard = Dice(), HardDice()

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        return self.soft.value(logits, target, progress, targeted)

    def value_and_rank(
        self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Soft and hard Dice, both as losses."""
        with torch.no_grad():
            rank = self.hard.value(logits.detach(), target, progress, targeted)
        return self.value(logits, target, progress, targeted), rank.to(logits.dtype)


class ChenAttack(GeneratedAttack):
    """A deformation without folds and a smooth shading, both from one network, which lower Dice by a prescribed amount.

    The drop is drawn for each sample in training, told to the generator, and chosen with ``drop`` in the attack. Labels
    move with the anatomy: ``result.adversarial_score`` is against the moved label, ``result.unmoved_score`` against the
    one as it was, which counts every organ that moved as an error.

    Example:
        >>> from monai_adversarial.data.example import example_case
        >>> from monai_adversarial.generators import ChenAttack
        >>> model, image, label = example_case(16)
        >>> attack = ChenAttack(drop=0.3, channels=(4, 8))
        >>> history = attack.fit(model, [(image, label)], epochs=1)
        >>> result = attack(model, image, label)
        >>> result.backwards, bool((result.budgets["0_ElasticDeformation_jacobian_minimum"].values > 0).all())
        (0, True)

    Args:
        max_displacement: largest displacement in mm.
        max_gain: largest gain minus one, for example 0.5 for 50 %.
        drop: loss of Dice that the attack asks for.
        drops: range from which the training draws it.
        control_spacing: distance of the controls of both fields in mm.
        adversarial, realism, velocity, intensity: weights of the distance from the prescribed Dice, of the
            discriminator's verdict, of rough velocities, and of strong or rough shading.
        rate: of Adam, with the betas 0.5 and 0.999.
        latent: normal numbers that the generator is told, so that one image has many outcomes.
        options: see :class:`~monai_adversarial.generators.GeneratedAttack`.

    Raises:
        ValueError: for arguments out of range.

    Source: Chen et al., "Intelligent image synthesis to attack a segmentation CNN using adversarial learning", 2019.
    Only its abstract could be read: the architecture, the losses and their weights are a reconstruction. The velocity's
    certificate takes the place of a penalty of folds.

    Survey entry: A09 (reconstruction).
    """

    def __init__(
        self,
        max_displacement: float = 10.0,
        max_gain: float = 0.5,
        drop: float = 0.5,
        drops: Sequence[float] = (0.1, 0.8),
        control_spacing: float = 32.0,
        adversarial: float = 10.0,
        realism: float = 1.0,
        velocity: float = 1.0,
        intensity: float = 1.0,
        rate: float = 2e-4,
        latent: int = 8,
        **options: Any,
    ) -> None:
        low, high = (check_fraction("drops", part) for part in drops)
        if not low < high:
            raise ValueError(f"drops must be (lowest, highest) with lowest < highest, got {tuple(drops)}.")
        if options.get("targeted"):
            raise ValueError("targeted must be False: what ChenAttack wants of the segmentation is a lower Dice.")
        smoothness = _Smoothness(
            check_positive("velocity", velocity, allow_zero=True),
            check_positive("intensity", intensity, allow_zero=True),
        )
        settings = Settings(
            check_positive("adversarial", adversarial),
            check_positive("realism", realism, allow_zero=True),
            1.0,
            check_positive("rate", rate),
            (0.5, 0.999),
            (),
            (low, high),
        )
        super().__init__(
            geometric_intensity(max_displacement, max_gain, control_spacing),
            _RankedByDecision(),
            (options.get("spatial_dims", 3), 1),
            settings,
            smoothness,
            latent=latent,
            drop=drop,
            **options,
        )
