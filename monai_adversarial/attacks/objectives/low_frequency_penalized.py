# SPDX-License-Identifier: Apache-2.0
"""An objective that also wants the low frequencies of the image to stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from monai_adversarial.attacks.objectives.base import Objective
from monai_adversarial.attacks.objectives.penalized import PenalizedObjective
from monai_adversarial.attacks.objectives.wrapped import with_inner
from monai_adversarial.purifiers.discrete_cosine import pad_to_blocks
from monai_adversarial.utils.shown_window import check_shown_window, shown_window, window_share
from monai_adversarial.utils.validation import check_count, check_positive

if TYPE_CHECKING:
    from monai_adversarial.attacks.perturbations.base import BoundPerturbation

__all__ = ["LowFrequencyPenalized", "low_frequencies"]

_POOLS = (torch.nn.functional.avg_pool1d, torch.nn.functional.avg_pool2d, torch.nn.functional.avg_pool3d)


class LowFrequencyPenalized(PenalizedObjective):
    """``weight * objective - low_frequency_weight * L``, where ``L`` is the mean absolute change of the image's low
    frequencies as a share of the window.

    Low frequencies are the coarsest band of ``levels`` Haar wavelet transforms: the means of blocks of ``2**levels``
    voxels. The change goes into fine detail, where it is less seen, and where smoothing and rounding undo more of it.

    >>> from monai_adversarial.attacks import PGD, LowFrequencyPenalized
    >>> from monai_adversarial.attacks.objectives.low_frequency_penalized import low_frequencies
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> found = []
    >>> for weight in (0.0, 100.0):
    ...     objective = LowFrequencyPenalized("dice", low_frequency_weight=weight)
    ...     result = PGD(8, "HU", steps=4, objective=objective)(model, image, label)
    ...     found.append(float(low_frequencies(result.adversarial - image).abs().mean()))
    >>> found[1] < 0.7 * found[0]
    True

    Args:
        objective: name, or an objective of sums over voxels, as all built-in ones are.
        weight: its factor, above 0.
        low_frequency_weight: factor of the change of low frequencies, >= 0.
        levels: of the Haar transform.
        window: (low, high) in HU whose width counts as 1; None for that of the intensity map, and each image's own
            range where none is known.

    Raises:
        TypeError: for an objective that is no sum over voxels.
        ValueError: for a weight out of range, no level, or a window that is not low < high.

    Survey entry: X13 (reconstruction).

    Source: the low-frequency constraint of Luo et al., "Frequency-driven imperceptible adversarial attack on semantic
    similarity", CVPR 2022 (one Haar level, smooth absolute difference summed over photographs), which MAFL-Attack (Sun
    et al. 2025, abstract read) names, too. The mean instead of the sum, the share of a window and 3D are ours.
    """

    def __init__(
        self,
        objective: str | Objective = "dice",
        weight: float = 1.0,
        low_frequency_weight: float = 10.0,
        levels: int = 1,
        window: Sequence[float] | None = None,
    ) -> None:
        super().__init__(objective, weight)
        self.low_frequency_weight = check_positive("low_frequency_weight", low_frequency_weight, allow_zero=True)
        self.levels = check_count("levels", levels)
        self.window = check_shown_window(window)

    def _around(self, objective: Objective) -> LowFrequencyPenalized:
        return LowFrequencyPenalized(objective, self.weight, self.low_frequency_weight, self.levels, self.window)

    def image_term(self, bound: BoundPerturbation, changed: torch.Tensor) -> torch.Tensor | None:
        """The change of low frequencies, negative, with what the inner objective wants of the image."""
        inner = super().image_term(bound, changed)
        if self.low_frequency_weight == 0:
            return inner
        low, high = shown_window(bound.scene, self.window)
        change = window_share(changed, low, high) - window_share(bound.scene.image, low, high)
        term = -self.low_frequency_weight * low_frequencies(change, self.levels).abs().flatten(1).mean(dim=1)
        return with_inner(term, inner)


def low_frequencies(image: torch.Tensor, levels: int = 1) -> torch.Tensor:
    """Means of blocks of ``2**levels`` voxels: the coarsest Haar band, divided by its gain.

    >>> import torch
    >>> from monai_adversarial.attacks.objectives.low_frequency_penalized import low_frequencies
    >>> low_frequencies(torch.tensor([[[1.0, 3.0, 4.0, -4.0, 7.0]]])).tolist()
    [[[2.0, 0.0, 7.0]]]

    Args:
        image: (batch, channel, spatial...) of one to three axes; blocks at the end continue with border values.
        levels: of the transform.
    """
    dimensions, block = image.ndim - 2, 2**levels
    return _POOLS[dimensions - 1](pad_to_blocks(image, (block,) * dimensions), block)
