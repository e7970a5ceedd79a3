# SPDX-License-Identifier: Apache-2.0
"""A window of another level and width."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.attacks.perturbations.acquisition.block import AcquisitionBlock, BoundAcquisitionBlock, Variable
from monai_adversarial.attacks.perturbations.base import Parameters, per_sample
from monai_adversarial.utils.scene import Scene
from monai_adversarial.utils.shown_window import check_shown_window, shown_window
from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundWindowShift", "WindowShift"]


class WindowShift(AcquisitionBlock):
    """The image as it looks through a window of another level and width, as an image of the window in use.

    >>> from monai_adversarial.attacks import Attack, WindowShift
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = Attack(WindowShift(max_level=20), "dice", steps=3)(model, image, label)
    >>> result.budgets["window_level"].units, result.budgets["window_level"].limit.tolist()
    ('HU', [20.0])

    Args:
        max_level: largest shift of the level in HU; a higher level makes the image darker.
        max_width: largest change of the width as a fraction, below 1; a wider window has less contrast.
        window: (low, high) in HU of the window in use; None for that of the intensity map.

    Raises:
        ValueError: for a negative amount, or a window that is not low < high.

    Survey entry: A15 (own).

    Source: our own; the ranges are those that readers use for one task.
    """

    budget_attributes = ("max_level", "max_width")
    units = "HU"

    def __init__(self, max_level: float = 20.0, max_width: float = 0.1, window: Sequence[float] | None = None) -> None:
        self.max_level = check_positive("max_level", max_level, allow_zero=True)
        self.max_width = check_positive("max_width", max_width, allow_zero=True)
        if self.max_width >= 1:
            raise ValueError(f"max_width must be below 1, got {max_width}.")
        self.window = check_shown_window(window)

    def bind(self, scene: Scene) -> BoundWindowShift:
        """Tie the window to a batch; ValueError where the window in use is not known."""
        return BoundWindowShift(self, scene)


class BoundWindowShift(BoundAcquisitionBlock):
    """Level in HU and relative width, (batch, 1) each."""

    def __init__(self, block: WindowShift, scene: Scene) -> None:
        level = Variable("window_level", "HU", (1,), -block.max_level, block.max_level)
        width = Variable("window_width", "fraction", (1,), -block.max_width, block.max_width)
        super().__init__(scene, (level, width))
        low, high = shown_window(scene, block.window)
        self.center, self.unit = (low + high) / 2, scene.in_image_units(1.0, "HU")

    def change(self, image: torch.Tensor, parameters: Parameters) -> torch.Tensor:
        level, width = (per_sample(parameter, image) for parameter in parameters)
        value = image - self.center
        return (value - level * self.unit) / (1 + width) - value
