# SPDX-License-Identifier: Apache-2.0
"""Clean batches that the tests of perturbations use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from monai_adversarial.attacks.perturbations import Parameters
from monai_adversarial.utils.intensity import IntensityMap
from monai_adversarial.utils.scene import Scene

WINDOW = IntensityMap.from_window(-175, 250)


def smooth(shape: Sequence[int], seed: int = 0, channels: int = 1, batch: int = 1, size: int = 4) -> torch.Tensor:
    """Smooth random values of about unit size, (batch, channels, *shape), float64."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, *[size] * len(shape), generator=generator, dtype=torch.float64)
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
    return F.interpolate(coarse, size=tuple(shape), mode=mode, align_corners=True)


def hounsfield_scene(
    shape: Sequence[int] = (12, 10, 8),
    spacing: Sequence[float] = (1.0, 2.0, 3.0),
    batch: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    region: torch.Tensor | None = None,
    intensity: IntensityMap | None = WINDOW,
) -> Scene:
    """Smooth values from about -400 to 500 HU."""
    image = (smooth(shape, seed, batch=batch) * 200 + 40).to(dtype)
    table = torch.tensor([list(spacing)] * batch, dtype=torch.float64)
    return Scene(image, tuple(range(seed, seed + batch)), table, region, intensity, "HU")


def leaves(parameters: Parameters) -> Parameters:
    """Copies that require a gradient."""
    return tuple(p.detach().clone().requires_grad_() for p in parameters)
