# SPDX-License-Identifier: Apache-2.0
"""Information dropped by quantization of the discrete cosine transform, with a table that the attacker chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.base import Measurement, Parameters, Perturbation
from monai_adversarial.attacks.perturbations.frequency import BoundFrequency
from monai_adversarial.purifiers.discrete_cosine import quantize, tile_blocks
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.shown_window import check_shown_window
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["BoundFrequencyQuantization", "FrequencyQuantization", "smooth_round"]

#: gray level that becomes zero before the transform, as in JPEG
MIDDLE_GRAY = 128.0


def smooth_round(turns: torch.Tensor, softness: float) -> torch.Tensor:
    """Rounding whose steps are smooth: equal to it at whole numbers and halfway between them.

    >>> from monai_adversarial.attacks.perturbations.frequency_quantization import smooth_round
    >>> import torch
    >>> smooth_round(torch.tensor([2.0, 2.4, 2.5, 2.6, 3.0]), 0.1).round(decimals=2).numpy()
    array([2.  , 2.34, 2.5 , 2.66, 3.  ], dtype=float32)

    Args:
        turns: any numbers.
        softness: from 0 (a step) to below 1, where it approaches a line.
    """
    below = turns.floor()
    steepness = math.log(2.0 / softness - 1.0)
    return below + 0.5 + 0.5 / (1.0 - softness) * torch.tanh((turns - below - 0.5) * steepness)


class FrequencyQuantization(Perturbation):
    """Rounds each coefficient of a blockwise cosine transform to multiples of its own step; the steps are attacked.

    One table of steps for all blocks of a volume. Steps count in 1/255 of the window's width. The forward pass rounds
    as a codec does, the backward pass goes through :func:`smooth_round`. The change of a voxel has no bound of its own:
    its largest value, its root mean square and the SSIM are reported.

    >>> from monai_adversarial.attacks import Attack, FrequencyQuantization
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(FrequencyQuantization(20, block_size=8), "dice", steps=3)(model, image, label)
    >>> result.budgets["largest_quantization_step"].limit
    20.0

    Args:
        largest_step: q_max, in 1/255 of the window; 0 is the identity.
        smallest_step: of coefficients that are rounded at all, in 1/255 of the window. A table of zeros, which rounds
            nothing, is where an attack from the clean image begins.
        block_size: voxels along each axis of a block.
        first_step: of the table at which a search begins, unless it begins at the clean image; None for a random table.
        softness: of the backward pass, above 0 and below 1; see :func:`smooth_round`.
        window: (low, high) in HU whose content is transformed; None for that of the intensity map, and each image's own
            range where none is known. Voxels outside keep their bits.

    Raises:
        ValueError: for a number out of range.

    Survey entry: X02 (adapted), A22 (adapted).

    Source: VAFA (Hanif et al., MICCAI 2023) and AdvDrop (Duan et al., ICCV 2021). The published code sharpens the
    rounding from step to step, also in the forward pass. Here the forward pass is exact from the first step on, so that
    values of different steps compare. Slices are not stretched to their own range afterwards, which would change HU.
    """

    budget_attributes = ("largest_step",)

    def __init__(
        self,
        largest_step: float = 20.0,
        smallest_step: float = 1.0,
        block_size: int = 32,
        first_step: float | None = None,
        softness: float = 0.1,
        window: Sequence[float] | None = None,
    ) -> None:
        self.largest_step = check_positive("largest_step", largest_step, allow_zero=True)
        self.smallest_step = check_positive("smallest_step", smallest_step)
        if 0 < self.largest_step < self.smallest_step:
            raise ValueError(f"largest_step must be at least smallest_step={smallest_step}, got {largest_step}.")
        self.block_size = check_count("block_size", block_size, minimum=2)
        self.first_step = None if first_step is None else check_positive("first_step", first_step, allow_zero=True)
        self.softness = check_positive("softness", softness)
        if self.softness >= 1:
            raise ValueError(f"softness must be below 1, got {softness}.")
        self.window = check_shown_window(window)

    @property
    def units(self) -> str | None:
        """``"HU"`` where the window is given in HU."""
        return None if self.window is None else "HU"

    def bind(self, scene: Scene) -> BoundFrequencyQuantization:
        """Tie the table to a batch.

        Raises:
            ValueError: where the window is not known.
        """
        return BoundFrequencyQuantization(self, scene)


class BoundFrequencyQuantization(BoundFrequency):
    """One table for each sample, (batch, block...), in 1/255 of the window.

    >>> from monai_adversarial.attacks import AdvDrop
    >>> from monai_adversarial.data.example import example_case
    >>> result = AdvDrop(steps=2)(*example_case(16))
    >>> result.parameters[0].shape, bool((result.parameters[0] <= result.bound.radii[0]).all())
    (torch.Size([1, 8, 8, 8]), True)
    """

    def __init__(self, perturbation: FrequencyQuantization, scene: Scene) -> None:
        super().__init__(scene, perturbation.block_size, perturbation.window, MIDDLE_GRAY)
        self.largest = perturbation.largest_step
        self.smallest = min(perturbation.smallest_step, self.largest)
        self.first_step, self.softness = perturbation.first_step, perturbation.softness

    @property
    def radii(self) -> Parameters:
        """The largest step."""
        return (self.scene.image.new_full((1,) * (len(self.block) + 1), self.largest),)

    def zeros(self) -> Parameters:
        """Nothing is rounded."""
        return (self.scene.image.new_zeros(self.scene.batch, *self.block),)

    def random(self, generators: list[torch.Generator]) -> Parameters:
        """Uniform from the smallest to the largest step."""
        (table,) = self.zeros()
        for sample, generator in zip(table, generators, strict=True):
            sample.uniform_(self.smallest, self.largest, generator=generator)
        return (table,)

    def start(self, generators: list[torch.Generator]) -> Parameters:
        """The table of the first step, or a random one."""
        if self.first_step is None:
            return self.random(generators)
        return self.project((torch.full_like(self.zeros()[0], self.first_step),))

    def random_control(self, generators: list[torch.Generator], parameters: Parameters) -> Parameters:
        """The same steps, given to coefficients at random."""
        shuffled = []
        for table, generator in zip(parameters[0].detach(), generators, strict=True):
            order = torch.randperm(table.numel(), generator=generator, device=table.device)
            shuffled.append(table.flatten()[order].view(table.shape))
        return (torch.stack(shuffled),)

    def project(self, parameters: Parameters) -> Parameters:
        """Steps from the smallest to the largest."""
        return (parameters[0].clamp(self.smallest, self.largest),)

    def change_of_coefficients(self, coefficients: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        """To the nearest multiples; none where the step is zero, whose gradient is that of the smallest one."""
        table = parameters[0]
        floor = max(self.smallest, torch.finfo(table.dtype).tiny ** 0.5)
        steps = torch.where(table > 0, table, table + (floor - table).detach()).unsqueeze(1)
        steps = torch.stack([tile_blocks(one[0], coefficients.shape) for one in steps]).unsqueeze(1)
        soft = steps * smooth_round(coefficients / steps, self.softness) - coefficients
        with torch.no_grad():
            hard = quantize(coefficients, steps) - coefficients
            rounded = torch.stack([tile_blocks(one, coefficients.shape) for one in table > 0]).unsqueeze(1)
            hard = torch.where(rounded, hard, 0.0)
        return hard + (soft - soft.detach())

    def measure_parameters(self, parameters: Parameters) -> dict[str, Measurement]:
        """The largest and the smallest step that is not zero."""
        flat = parameters[0].detach().flatten(1)
        smallest = torch.where(flat != 0, flat, self.largest).amin(dim=1)
        return {
            "largest_quantization_step": Measurement(flat.amax(dim=1), "1/255 of the window", self.largest),
            "smallest_quantization_step": Measurement(smallest, "1/255 of the window", self.smallest, at_least=True),
        }
