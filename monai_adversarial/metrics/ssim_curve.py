# SPDX-License-Identifier: Apache-2.0
"""Structural similarity of attacked images to the clean one, over the budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.metrics.budget_curve import BudgetCurve
from monai_adversarial.metrics.structural_similarity import structural_similarity
from monai_adversarial.utils.plain import as_plain

__all__ = ["SSIMCurve"]


class SSIMCurve(BudgetCurve):
    """SSIM of each attacked image with the clean one at rising budgets, and the area under the curve.

    Images are clipped to a window, as a reader sees them, and scaled to 0 to 1. SSIM has a Gaussian window (sigma 1.5)
    of 11 voxels in 2D and of 7 in 3D. Nothing is carried on from smaller budgets.

    >>> from monai_adversarial.attacks import FGSM
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.metrics import SSIMCurve
    >>> metric = SSIMCurve([4, 16], window=(-160, 240))
    >>> _ = metric.add([FGSM(budget, units="HU")(*example_case(16)) for budget in metric.budgets])
    >>> 1 > metric.aggregate()["ssim_at_4"] > metric.aggregate()["ssim_at_16"]
    True

    Called with the attacked images (batch, budgets, channel, spatial...) and the clean one (batch, channel,
    spatial...). ``add`` takes a list of results of the same batch, one for each budget.

    Args:
        budgets: above 0 and rising, in the unit of the attack.
        window: lowest and highest value shown, in image units (HU where images are in HU).

    Raises:
        ValueError: for budgets that do not rise, a window without width, and images that do not fit.

    Source: the curves of Bortsova et al., Medical Image Analysis 2021, as the survey shows them (its Figure 8); SSIM
    is that of Wang et al. 2004.

    Survey entry: M05 (adapted).
    """

    score = "ssim"

    def __init__(self, budgets: Sequence[float], window: Sequence[float] = (0.0, 1.0)) -> None:
        super().__init__(budgets, keeps_best=False)
        low, high = (float(edge) for edge in window)
        if not high > low:
            raise ValueError(f"window must give two values in rising order, got {tuple(window)}.")
        self.window = (low, high)

    def rows(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        if not isinstance(y, torch.Tensor) or y.ndim not in (4, 5):
            given = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
            raise ValueError(f"y must be the clean image (batch, channel, 2 or 3 spatial dimensions), got {given}.")
        images = as_plain(y_pred).to(y.device)
        expected = (y.shape[0], len(self.budgets), *y.shape[1:])
        if tuple(images.shape) != expected:
            raise ValueError(
                f"y_pred must hold an attacked image for each budget, {expected}, got {tuple(images.shape)}."
            )
        clean = self._shown(y)
        size = 11 if y.ndim == 4 else 7
        found = [structural_similarity(self._shown(one), clean, size) for one in images.unbind(1)]
        return super().rows(torch.stack(found, dim=1), torch.ones(y.shape[0]))

    def _shown(self, image: torch.Tensor) -> torch.Tensor:
        low, high = self.window
        return (as_plain(image).detach().to(torch.float64).clamp(low, high) - low) / (high - low)

    def add(self, result: Any) -> torch.Tensor:
        """Count the cases of a batch that was attacked within each budget.

        Args:
            result: list of ``AttackResult``, one for each budget.

        Returns:
            The rows, (batch, columns).
        """
        results = self._results(result)
        clean = results[0].image
        images = []
        for one in results:
            changed = as_plain(torch.as_tensor(one.adversarial))
            if one.image_channels is not None:
                changed = changed[:, list(one.image_channels)]
            if not torch.equal(one.image, clean):
                raise ValueError("result must hold results of one batch, but their clean images differ.")
            images.append(changed.to(clean))
        return self(torch.stack(images, dim=1), clean)
