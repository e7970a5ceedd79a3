# SPDX-License-Identifier: Apache-2.0
"""The 9/7 wavelet against PyWavelets."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch

from monai_adversarial.purifiers.biorthogonal_wavelet import _analyze, map_details, soft_dead_zone
from tests.helpers import random_image


def test_coefficients_are_those_of_pywavelets():
    image = random_image((1, 40), dtype=torch.float64)
    low, high = (half[0].numpy() for half in _analyze(image, 1))
    approximation, detail = pywt.dwt(image[0].numpy(), "bior4.4", mode="reflect")
    assert np.allclose(low[3:-3], approximation[5:-5], atol=1e-8)
    assert np.allclose(np.abs(high[3:-3]), np.abs(detail[5:-5]), atol=1e-8)


@pytest.mark.parametrize("shape", [(16, 24), (13, 9), (1, 5)])
def test_nothing_changes_without_a_change_of_coefficients(shape):
    image = random_image((2, 1, *shape), dtype=torch.float64)
    assert torch.allclose(map_details(image, (2, 3), 3, lambda detail: detail), image)


def test_smooth_images_have_no_details():
    line = torch.linspace(0, 5, 64, dtype=torch.float64)
    seen = []

    def keep(detail: torch.Tensor) -> torch.Tensor:
        seen.append(detail)
        return detail

    map_details(line[None, None, :, None] + 2 * line, (2, 3), 1, keep)
    assert len(seen) == 3
    assert all(float(detail[..., 2:-2, 2:-2].abs().max()) < 1e-6 for detail in seen)


def test_the_soft_dead_zone_is_a_hard_one_smoothed_by_a_normal_distribution():
    values = torch.linspace(-40, 40, 33, dtype=torch.float64, requires_grad=True)
    noise = torch.distributions.Normal(0.0, 6.0).icdf((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)
    noisy = values.detach()[:, None] + noise
    expected = torch.where(noisy.abs() > 20, noisy, 0.0).mean(dim=1)
    assert float((soft_dead_zone(values, 20.0, 6.0).detach() - expected).abs().max()) < 0.02
    assert torch.autograd.gradcheck(lambda v: soft_dead_zone(v, 20.0, 6.0), values)
