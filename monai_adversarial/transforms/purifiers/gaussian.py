# SPDX-License-Identifier: Apache-2.0
"""Gaussian smoothing with a width in mm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.utils import ensure_tuple

from monai_adversarial.attacks.validation import check_positive
from monai_adversarial.transforms.purifiers.base import Purifier
from monai_adversarial.transforms.purifiers.context import ImageContext
from monai_adversarial.transforms.purifiers.dictionary import dictionary_form

__all__ = ["GaussianDenoise", "GaussianDenoiseD", "GaussianDenoiseDict", "GaussianDenoised"]


class GaussianDenoise(Purifier):
    """Gaussian smoothing; MONAI's ``separable_filtering`` with its sampled kernel, border values outside.

    Equal to ``scipy.ndimage.gaussian_filter(mode="nearest", truncate=4)`` to 1e-5 of the intensities.

    Differentiable: an attacker goes through it exactly.

    Args:
        sigma: standard deviation in mm, one number or one per axis.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`.

    Source: textbook.
    """

    gradient = "exact"

    def __init__(self, sigma: float | Sequence[float] = 1.5, intensity: Any = None, spacing: Any = None) -> None:
        super().__init__(intensity, spacing)
        self.sigma = tuple(check_positive("sigma", value) for value in ensure_tuple(sigma))

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Smooth each sample with its own spacing."""
        sigmas = context.in_voxels(self.sigma, image, "sigma").tolist()
        rank = image.ndim - 2
        if all(sigma == sigmas[0] for sigma in sigmas):
            return self._smooth(image, sigmas[0], rank)
        return torch.cat([self._smooth(image[i : i + 1], sigma, rank) for i, sigma in enumerate(sigmas)])

    @staticmethod
    def _smooth(image: torch.Tensor, sigma: list[float], rank: int) -> torch.Tensor:
        kernels = [gaussian_1d(torch.tensor(s), truncated=4.0, approx="sampled", normalize=True) for s in sigma]
        return separable_filtering(image, [k.to(image) for k in kernels], mode="replicate")


GaussianDenoiseD = GaussianDenoiseDict = GaussianDenoised = dictionary_form(GaussianDenoise)
