# SPDX-License-Identifier: Apache-2.0
"""Draws of random transforms on images whose file holds coarse steps: rounded once, and explained."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import RandAffine, RandGaussianNoise

from monai_adversarial.attacks import WorstOf
from monai_adversarial.models import AttackedModel
from monai_adversarial.utils.stored_grid import StoredGrid
from tests.helpers import LinearNetwork


@pytest.mark.parametrize(
    "transform", [RandGaussianNoise(std=20.0), RandAffine(rotate_range=0.2, padding_mode="border")]
)
def test_a_file_of_coarse_steps_is_no_unexplained_change(transform: object) -> None:
    grid = StoredGrid(8.0, 0.0, -1024.0, 3072.0)
    image = (torch.rand(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0)) * 50).round() * 8
    label = (image > 200).float()
    model = AttackedModel(LinearNetwork((-1.0, 1.0), (200.0, -200.0)), image_units="HU", stored_grid=grid)
    result = WorstOf(transform, draws=3)(model, image, label)
    assert torch.equal(result.adversarial, (result.adversarial / 8).round() * 8)
    assert float(result.budgets["largest_change"].values[0]) >= 8
