# SPDX-License-Identifier: Apache-2.0
"""A tiny U-Net behind sliding windows, and clean cases."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import UNet

from monai_adversarial.attacks import PGD
from monai_adversarial.data.example import example_case
from monai_adversarial.detection import Evading
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


def scores_of_attacks(detector, model, image, label, weight: float = 3.0, steps: int = 4) -> tuple[float, float]:
    """What the detector says of an attack that does not know it, and of one that does."""
    unaware = PGD(8, units="HU", steps=steps)(model, image, label)
    aware = PGD(8, units="HU", steps=steps, objective=Evading("dice_ce", detector, weight=weight))
    found = aware(model, image, label, start=unaware.parameters)
    return float(detector.score(unaware.adversarial)), float(detector.score(found.adversarial))


def slope_along(value, image: torch.Tensor, step: float = 1e-5) -> tuple[float, float]:
    """Derivative along a random direction: by backpropagation, and by differences."""
    direction = torch.randn(image.shape, dtype=image.dtype, generator=torch.Generator().manual_seed(9))
    moving = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(moving).sum(), moving)
    with torch.no_grad():
        ahead, behind = (float(value(image + sign * step * direction).sum()) for sign in (1, -1))
    return float((gradient * direction).sum()), (ahead - behind) / (2 * step)
