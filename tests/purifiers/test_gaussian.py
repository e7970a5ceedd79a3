# SPDX-License-Identifier: Apache-2.0
"""Gaussian smoothing: SciPy's values on every path, in mm."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import gaussian_filter

from monai_adversarial.transforms import GaussianDenoise, ImageContext
from tests.helpers import random_image

SPACING = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]], dtype=torch.float64)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("shape", [(2, 2, 14, 12, 10), (2, 1, 20, 18)])
def test_equals_scipy_with_each_samples_own_spacing(shape, gradient):
    image = 1000 * random_image(shape)
    spacing = SPACING[:, : len(shape) - 2]
    out = GaussianDenoise(3.0).purify(image.clone().requires_grad_(gradient), ImageContext(spacing)).detach()
    for sample in range(2):
        sigma = (0.0, *(3.0 / spacing[sample]).tolist())
        expected = torch.from_numpy(gaussian_filter(image[sample].numpy(), sigma, mode="nearest", truncate=4.0))
        torch.testing.assert_close(out[sample], expected, rtol=1e-5, atol=1e-2)


def test_gradient_is_exact():
    image = random_image((1, 1, 5, 6, 4), dtype=torch.float64).requires_grad_()
    context = ImageContext(SPACING[:1])
    assert torch.autograd.gradcheck(lambda x: GaussianDenoise(2.0).purify(x, context), (image,))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), (1.0, 0.0, 1.0)])
def test_width_must_be_positive(sigma):
    with pytest.raises(ValueError, match="sigma must be a finite number > 0"):
        GaussianDenoise(sigma)


def test_sigma_without_numbers_is_refused():
    for sigma in ((), (1.0,) * 4):
        with pytest.raises(ValueError, match="sigma must be one number"):
            GaussianDenoise(sigma=sigma)
