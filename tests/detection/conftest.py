# SPDX-License-Identifier: Apache-2.0
"""A tiny U-Net behind sliding windows, and clean cases."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet

from monai_adversarial.data.example import example_case
from monai_adversarial.models import AttackedModel


def tiny_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return UNet(3, 1, 3, channels=(4, 6, 8), strides=(2, 2), num_res_units=0).eval()


@pytest.fixture
def windowed() -> AttackedModel:
    """A U-Net that sees 16 voxels at a time, in HU."""
    return AttackedModel(
        tiny_network(),
        SlidingWindowInferer((16, 16, 16), 2, 0.25),
        intensity={"a_min": -160, "a_max": 340},
        image_units="HU",
    )


@pytest.fixture
def cases() -> list[torch.Tensor]:
    """Clean images (1, 1, 16, 16, 16) of the example, in HU."""
    return [example_case(16, seed)[1] for seed in range(24)]
