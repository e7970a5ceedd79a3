# SPDX-License-Identifier: Apache-2.0
"""Ghosts: lines of k-space that are periodically too strong and too weak."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.acquisition.k_space import (
    BoundKSpaceBlock,
    along_axis,
    check_phase_axis,
    signed_lines,
)
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["BoundGhosting", "Ghosting"]


class Ghosting(AcquisitionBlock):
    """Scales line ``k`` of k-space by ``1 + sum of a_p * cos(2 * pi * k / p)`` over some periods ``p``.

    A period of ``p`` lines puts ghosts of half the amplitude ``1 / p`` of the field of view away on either side (for
    ``p = 2`` they meet).

    >>> from monai_adversarial.attacks import Attack, Ghosting
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(Ghosting(0.3), "dice", steps=3)(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        max_amplitude: largest change of a line's amplitude by one period, as a fraction.
        periods: in lines, at least 2 each.
        phase_axis: spatial axis along which the lines follow each other.

    Raises:
        ValueError: for a number out of range, or no period.

    Survey entry: A15 (own).

    Source: textbook; the attacked form is ours.
    """

    budget_attributes = ("max_amplitude",)

    def __init__(self, max_amplitude: float = 0.2, periods: Sequence[int] = (2, 3, 4), phase_axis: int = 0) -> None:
        self.max_amplitude = check_positive("max_amplitude", max_amplitude, allow_zero=True)
        self.periods = tuple(check_count("periods", period, minimum=2) for period in periods)
        if not self.periods:
            raise ValueError("periods must hold at least one period in lines, got none.")
        self.phase_axis = phase_axis

    def bind(self, scene: Scene) -> BoundGhosting:
        """Tie the ghosts to a batch."""
        return BoundGhosting(self, scene)


class BoundGhosting(BoundKSpaceBlock):
    """Amplitude of each period, (batch, periods)."""

    def __init__(self, block: Ghosting, scene: Scene) -> None:
        limit = block.max_amplitude
        super().__init__(scene, (Variable("ghost_amplitude", "fraction", (len(block.periods),), -limit, limit),))
        self.axis = check_phase_axis(scene, block.phase_axis)
        lines = signed_lines(scene.spatial_shape[self.axis], scene.image.device).double()
        periods = torch.tensor(block.periods, dtype=torch.float64, device=lines.device)
        self.waves = torch.cos(2 * math.pi * lines / periods[:, None]).to(scene.image)

    def change_of_signal(self, signal: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """The ghosts."""
        change = (parameters[0][:, :, None] * self.waves).sum(dim=1)
        lines = torch.fft.fft(signal, dim=2 + self.axis) * along_axis(change, self.axis, signal.ndim - 2)
        return torch.fft.ifft(lines, dim=2 + self.axis)
