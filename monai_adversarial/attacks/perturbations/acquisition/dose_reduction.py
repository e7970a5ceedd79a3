# SPDX-License-Identifier: Apache-2.0
"""The noise of a lower dose."""

from __future__ import annotations

import copy
import math

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, BoundAcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.acquisition.reconstruction_kernel import in_plane_frequency
from monai_adversarial.attacks.perturbations.base import Measurement, Parameters, per_sample
from monai_adversarial.purifiers.discrete_cosine import blockwise_dct
from monai_adversarial.utils.calls import shown
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = ["BoundDoseReduction", "DoseReduction"]

TEXTURES = ("ramp", "white")
# Searches draw from the streams 0, 1, ..., a million and two million on; these fields are none of theirs.
NOISE_STREAM = 4_000_000


class DoseReduction(AcquisitionBlock):
    """Adds the noise that a lower dose would have added: ``noise * sqrt(1 / dose - 1)`` HU of a fixed random field.

    The field belongs to the case and the attack's seed. What is attacked is its size: an attack cannot choose where the
    noise lies, as a scanner cannot.

    >>> from monai_adversarial.attacks import Attack, DoseReduction
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(DoseReduction(least_dose=0.25, noise=10), "dice", steps=3)(model, image, label)
    >>> round(result.budgets["dose"].limit, 2), bool(result.adversarial_dice < result.clean_dice)
    (0.25, True)

    Args:
        least_dose: lowest dose as a share of the one in use, above 0, at most 1.
        noise: standard deviation of the scan's own noise in HU, at the dose in use.
        texture: ``"ramp"``: power that rises with the frequency within slices and falls again towards the Nyquist
            frequency, as filtered backprojection has it; ``"white"``.
        axial_axis: spatial axis across slices.

    Raises:
        ValueError: for a number out of range.

    Survey entry: A15 (own).

    Source: quantum noise, whose variance is in proportion to one over the dose (textbook). The noise has the same size
    everywhere; that of a scan grows with the length of the way through the body.
    """

    units = "HU"

    def __init__(
        self, least_dose: float = 0.25, noise: float = 12.0, texture: str = "ramp", axial_axis: int = -1
    ) -> None:
        self.least_dose = check_positive("least_dose", least_dose)
        if self.least_dose > 1:
            raise ValueError(f"least_dose must be at most 1, got {least_dose}.")
        self.noise = check_positive("noise", noise)
        self.texture = check_choice("texture", texture, TEXTURES)
        self.axial_axis = axial_axis

    def scaled(self, factor: float) -> DoseReduction:
        """The same scan whose dose may fall so far that the added noise is ``factor`` times as large."""
        factor = check_positive("factor", factor, allow_zero=True)
        made = copy.copy(self)
        made.least_dose = 1 / (1 + factor**2 * (1 / self.least_dose - 1))
        made._afterwards = (*self._afterwards, f".scaled({shown(factor)})")
        return made

    def bind(self, scene: Scene) -> BoundDoseReduction:
        """Tie the noise to a batch; ValueError where HU or, with ``texture="ramp"``, the spacing is not known."""
        return BoundDoseReduction(self, scene)


class BoundDoseReduction(BoundAcquisitionBlock):
    """Standard deviation of the added noise in HU, (batch, 1)."""

    def __init__(self, block: DoseReduction, scene: Scene) -> None:
        largest = block.noise * math.sqrt(1 / block.least_dose - 1)
        super().__init__(scene, (Variable("added_noise", "HU", (1,), 0.0, largest),))
        self.noise, self.least_dose = block.noise, block.least_dose
        self.unit = scene.in_image_units(1.0, "HU")
        field = torch.stack(
            [
                torch.randn(sample.shape, generator=generator, dtype=sample.dtype, device=sample.device)
                for sample, generator in zip(scene.image, scene.generators(NOISE_STREAM), strict=True)
            ]
        )
        if block.texture == "ramp":
            frequency, shape = in_plane_frequency(scene, block.axial_axis, "the texture of a dose's noise")
            amplitude = frequency.sqrt() * torch.cos(0.5 * math.pi * frequency.clamp_max(1.0))
            field = blockwise_dct(blockwise_dct(field, shape) * amplitude, shape, inverse=True)
        self.field = field / per_sample(field.flatten(1).std(dim=1, correction=0), field)

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        return per_sample(parameters[0], image) * self.unit * self.field

    def measure_parameters(self, parameters: Parameters) -> dict[str, Measurement]:
        """The added noise in HU, and the dose that it stands for."""
        dose = 1 / (1 + (parameters[0].detach()[:, 0] / self.noise).square())
        return {
            **super().measure_parameters(parameters),
            "dose": Measurement(dose, "of the dose in use", self.least_dose, at_least=True),
        }
