# SPDX-License-Identifier: Apache-2.0
"""SSIM and PSNR in the display window, change in HU."""

from __future__ import annotations

import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from monai_adversarial.metrics import score_visibility
from tests.helpers import random_image


def test_equal_images_are_perfectly_similar() -> None:
    image = random_image((20, 20, 6)) * 400 - 160
    found = score_visibility(image, image)
    assert found["ssim"] == pytest.approx(1.0, abs=1e-5)
    assert math.isinf(found["psnr_db"])
    assert found["largest_change_hu"] == found["rms_change_hu"] == 0.0


def test_scores_equal_scikit_image_inside_the_window() -> None:
    clean = random_image((24, 26, 4)) * 400 - 160
    image = (clean + random_image((24, 26, 4), seed=1) * 40).clamp(-160, 240)
    found = score_visibility(image, clean)
    assert found["psnr_db"] == pytest.approx(
        peak_signal_noise_ratio(clean.numpy(), image.numpy(), data_range=400), abs=1e-3
    )
    maps = []
    for k in range(4):
        _, similarity = structural_similarity(
            clean[..., k].numpy() + 160,
            image[..., k].numpy() + 160,
            data_range=400,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        maps.append(similarity[5:-5, 5:-5].mean())
    assert found["ssim"] == pytest.approx(sum(maps) / 4, abs=1e-3)


def test_what_the_window_hides_is_not_visible_but_measured() -> None:
    clean = torch.full((16, 16, 3), -900.0)
    image = clean.clone()
    image[4, 4, 1] += 100.0
    found = score_visibility(image[None, None], clean[None, None])
    assert found["ssim"] == pytest.approx(1.0, abs=1e-5) and math.isinf(found["psnr_db"])
    assert found["largest_change_hu"] == 100.0
    assert found["rms_change_hu"] == pytest.approx(100.0 / math.sqrt(16 * 16 * 3))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="window"):
        score_visibility(torch.zeros(8, 8, 8), torch.zeros(8, 8, 8), window=(100, 100))
    with pytest.raises(ValueError, match="same shape"):
        score_visibility(torch.zeros(8, 8, 8), torch.zeros(8, 8, 9))
