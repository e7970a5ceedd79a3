# SPDX-License-Identifier: Apache-2.0
"""An objective that also wants the image to look like the clean one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_adversarial.attacks.objectives.base import Objective
from monai_adversarial.attacks.objectives.penalized import PenalizedObjective
from monai_adversarial.attacks.objectives.wrapped import with_inner
from monai_adversarial.attacks.perturbations.base import BoundPerturbation
from monai_adversarial.metrics.structural_similarity import structural_similarity
from monai_adversarial.utils.shown_window import check_shown_window, shown_window, window_share
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["SSIMPenalized"]


class SSIMPenalized(PenalizedObjective):
    """``weight * objective - ssim_weight * (1 - SSIM(changed, clean))``, in the network's intensity window.

    >>> from monai_adversarial.attacks import PGD, SSIMPenalized
    >>> from monai_adversarial.data.example import example_case
    >>> model, image, label = example_case()
    >>> result = PGD(8, units="HU", steps=2, objective=SSIMPenalized("dice", ssim_weight=2.0))(model, image, label)
    >>> bool(result.adversarial_dice < result.clean_dice)
    True

    Args:
        objective: name, or an objective of sums over voxels, as all built-in ones are.
        weight: its factor, above 0.
        ssim_weight: factor of the loss of similarity, >= 0.
        window_size: of the SSIM in voxels, odd.
        window: (low, high) in HU in which images are compared; None for that of the intensity map, and each image's own
            range where none is known.

    Raises:
        TypeError: for an objective that is no sum over voxels.
        ValueError: for a weight out of range, an even window size, or a window that is not low < high.

    Survey entry: X02 (published).

    Source: the objective of VAFA (Hanif et al., MICCAI 2023), Dice loss minus (1 - SSIM). The window size is ours.
    """

    def __init__(
        self,
        objective: str | Objective = "dice",
        weight: float = 1.0,
        ssim_weight: float = 1.0,
        window_size: int = 7,
        window: Sequence[float] | None = None,
    ) -> None:
        super().__init__(objective, weight)
        self.ssim_weight = check_positive("ssim_weight", ssim_weight, allow_zero=True)
        self.window_size = check_count("window_size", window_size, minimum=3)
        if self.window_size % 2 == 0:
            raise ValueError(f"window_size must be odd, got {window_size}.")
        self.window = check_shown_window(window)

    def _around(self, objective: Objective) -> SSIMPenalized:
        return SSIMPenalized(objective, self.weight, self.ssim_weight, self.window_size, self.window)

    def image_term(self, bound: BoundPerturbation, changed: torch.Tensor) -> torch.Tensor | None:
        """The loss of similarity, negative, with what the inner objective wants of the image."""
        inner = super().image_term(bound, changed)
        if self.ssim_weight == 0:
            return inner
        low, high = shown_window(bound.scene, self.window)
        clean = window_share(bound.scene.image, low, high)
        similarity = structural_similarity(window_share(changed, low, high), clean, self.window_size)
        term = -self.ssim_weight * (1 - similarity)
        return with_inner(term, inner)
