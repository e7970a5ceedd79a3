# SPDX-License-Identifier: Apache-2.0
"""Fewer gray values: rounding to steps in HU."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.utils.validation import check_positive

__all__ = ["BitDepthReduction", "BitDepthReductionD", "BitDepthReductionDict", "BitDepthReductiond"]


class BitDepthReduction(Purifier):
    """Round every voxel to the nearest multiple of ``step`` HU (feature squeezing of the color depth).

    ``step`` in HU stands for the bits of the paper: a window of 400 HU at 5 bits has steps of 400 / 31 = 13 HU, 12 bits
    of -1024 to 3071 HU have steps of 1 HU. Multiples count from 0 HU, with or without ``intensity``, and nothing is
    clipped. A change below half a step is undone where it crosses no border between two steps, and becomes a whole
    step where it does.

    Piecewise constant, its gradient is zero: an attacker goes straight through it (backward through the identity).

    >>> import numpy as np
    >>> from monai_adversarial.transforms import BitDepthReduction
    >>> BitDepthReduction(step=16)(np.array([[3.0, 12.0, 30.0, 31.0]])).tolist()
    [[0.0, 16.0, 32.0, 32.0]]

    Args:
        step: distance of two gray values, in HU.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`; not used.

    Source: Xu, Evans and Qi, Feature Squeezing, NDSS 2018; steps in HU are a reconstruction.

    Survey entry: P01 (adapted).
    """

    gradient = "straight_through"

    def __init__(self, step: float = 16.0, intensity: Any = None, spacing: Any = None) -> None:
        super().__init__(intensity, spacing)
        self.step = check_positive("step", step)

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Round each voxel on its own; exactly half-way goes to the even multiple, as ``torch.round``."""
        step = self.hounsfield(self.step)
        zero = 0.0 if self.intensity is None else self.intensity.offset
        levels = image / step if zero == 0.0 else (image - zero) / step
        values = levels.round_().mul_(step)
        return values if zero == 0.0 else values.add_(zero)


BitDepthReductionD = BitDepthReductionDict = BitDepthReductiond = dictionary_form(
    BitDepthReduction,
    """
    >>> import numpy as np
    >>> from monai_adversarial.transforms import BitDepthReductiond
    >>> item = {"clean": np.full((1, 4, 4), 48.0), "attacked": np.full((1, 4, 4), 55.0)}
    >>> item = BitDepthReductiond(["clean", "attacked"], step=16)(item)
    >>> bool((item["clean"] == item["attacked"]).all())  # 7 HU are less than half a step
    True
    """,
)
