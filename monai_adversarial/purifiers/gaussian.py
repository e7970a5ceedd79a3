# SPDX-License-Identifier: Apache-2.0
"""Gaussian smoothing with a width in mm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.utils import ensure_tuple
from scipy.ndimage import gaussian_filter

from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import dictionary_form
from monai_adversarial.utils.validation import check_positive

__all__ = ["GaussianDenoise", "GaussianDenoiseD", "GaussianDenoiseDict", "GaussianDenoised", "gaussian_smooth"]

TRUNCATE = 4.0  # standard deviations


class GaussianDenoise(Purifier):
    """Gaussian smoothing, border values outside.

    ``scipy.ndimage.gaussian_filter(mode="nearest", truncate=4)`` on the CPU; for gradients and on a GPU MONAI's
    ``separable_filtering`` with its sampled kernel, equal to 1e-5 of the intensities.

    Differentiable: an attacker goes through it exactly.

    >>> import numpy as np
    >>> from monai_adversarial.transforms import GaussianDenoise
    >>> point = np.zeros((1, 31, 31))
    >>> point[0, 15, 15] = 1000.0
    >>> smooth = GaussianDenoise(sigma=3.0, spacing=(3.0, 1.0))(point)
    >>> bool(smooth[0, 16, 15] < smooth[0, 15, 16])  # one voxel along the first axis is 3 mm
    True
    >>> GaussianDenoise(sigma=3.0)(point)
    Traceback (most recent call last):
    ValueError: sigma is in mm but the spacing is not known: pass a MetaTensor with an affine, or spacing=(mm ...

    Args:
        sigma: standard deviation in mm, one number or one per axis.
        intensity: see :class:`Purifier`.
        spacing: see :class:`Purifier`.

    Source: textbook.

    Survey entry: P05 (published).
    """

    gradient = "exact"

    def __init__(self, sigma: float | Sequence[float] = 1.5, intensity: Any = None, spacing: Any = None) -> None:
        super().__init__(intensity, spacing)
        self.sigma = tuple(check_positive("sigma", value) for value in ensure_tuple(sigma))
        if not 1 <= len(self.sigma) <= 3:
            raise ValueError(f"sigma must be one number (mm) or one per axis, got {sigma!r}.")

    @property
    def in_hounsfield(self) -> bool:
        """No: widths are in mm."""
        return False

    def purify(self, image: torch.Tensor, context: ImageContext) -> torch.Tensor:
        """Smooth each sample with its own spacing."""
        sigmas = context.in_voxels(self.sigma, image, "sigma").tolist()
        if image.device.type == "cpu" and not (torch.is_grad_enabled() and image.requires_grad):
            return torch.stack([_smooth_with_scipy(one, sigma) for one, sigma in zip(image, sigmas, strict=True)])
        return torch.cat([gaussian_smooth(one, sigma) for one, sigma in zip(image.split(1), sigmas, strict=True)])


def _smooth_with_scipy(sample: torch.Tensor, sigma: list[float]) -> torch.Tensor:
    """(channel, spatial...), twice as fast as convolutions on a CPU."""
    array = sample.detach().numpy()
    return torch.from_numpy(gaussian_filter(array, (0.0, *sigma), mode="nearest", truncate=TRUNCATE))


def gaussian_smooth(image: torch.Tensor, sigma: Sequence[float]) -> torch.Tensor:
    """Differentiable Gaussian smoothing, border values outside.

    >>> import torch
    >>> from monai_adversarial.purifiers.gaussian import gaussian_smooth
    >>> step = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).view(1, 1, 6)
    >>> [round(value, 2) for value in gaussian_smooth(step, [1.0]).flatten().tolist()]
    [0.0, 0.06, 0.3, 0.7, 0.94, 1.0]

    Args:
        image: (batch, channel, spatial...).
        sigma: standard deviation in voxels along each axis.
    """
    kernels = [
        gaussian_1d(torch.tensor(s), truncated=TRUNCATE, approx="sampled", normalize=True).to(image) for s in sigma
    ]
    # Sample by sample: the order of a convolution's sums depends on the batch.
    return torch.cat([separable_filtering(one, kernels, mode="replicate") for one in image.split(1)])


GaussianDenoiseD = GaussianDenoiseDict = GaussianDenoised = dictionary_form(
    GaussianDenoise,
    """
    >>> from monai_adversarial.transforms import GaussianDenoised
    >>> from monai_adversarial.data.example import example_case
    >>> smooth = GaussianDenoised("image", sigma=6.0)
    >>> smooth
    GaussianDenoised(keys=('image',), GaussianDenoise(sigma=(6.0,)))
    >>> _, image, _ = example_case(16)  # its affine says 6 mm
    >>> bool(smooth({"image": image[0]})["image"].std() < 0.7 * image.std())
    True
    """,
)
