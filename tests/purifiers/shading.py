# SPDX-License-Identifier: Apache-2.0
"""A piecewise constant body, and smooth gains of known size on it."""

from __future__ import annotations

import math

import torch

from monai_adversarial.utils.smooth_basis import (
    evaluate_separable,
    legendre_exponents,
    legendre_matrix,
)

WINDOW = (-160.0, 240.0)


def body(
    shape: tuple[int, ...] = (40, 40, 32), noise: float = 5.0, seed: int = 0, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(1, 1, spatial...) in HU: air, a rim of fat, soft tissue of 65 HU, and in it organs of 85 and 20 HU."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=dtype) for n in shape], indexing="ij")
    radius = sum(axis**2 for axis in axes)
    image = torch.full(shape, -1000.0, dtype=dtype)
    image[radius < 1.2] = -100.0
    image[radius < 0.95] = 65.0
    image[sum((axis - 0.3) ** 2 for axis in axes) < 0.1] = 85.0
    image[sum((axis + 0.35) ** 2 for axis in axes) < 0.04] = 20.0
    generator = torch.Generator().manual_seed(seed)
    return (image + noise * torch.randn(shape, generator=generator, dtype=dtype))[None, None]


def smooth_log_gain(shape: tuple[int, ...], largest: float, seed: int, degree: int = 3) -> torch.Tensor:
    """Random Legendre polynomial, (1, 1, spatial...), whose largest value is log(1 + ``largest``)."""
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.zeros([degree + 1] * len(shape))
    for exponent in legendre_exponents(degree, len(shape)):
        coefficients[exponent] = torch.randn((), generator=generator)
    field = evaluate_separable(coefficients[None], [legendre_matrix(n, degree).float() for n in shape])[:, None]
    return field * math.log1p(largest) / field.abs().max()


def shade(image: torch.Tensor, log_gain: torch.Tensor) -> torch.Tensor:
    """Multiply what lies within the window, as the attack does."""
    low, high = WINDOW
    value = (image - low).clamp(0, high - low)
    return torch.where(image < high, image + (value * log_gain.exp()).clamp_max(high - low) - value, image)


def tissue(image: torch.Tensor) -> torch.Tensor:
    """Where a field can be seen: boolean, from the unshaded image."""
    return (image > 0) & (image < 150)


def root_mean_square(values: torch.Tensor) -> float:
    return float(values.square().mean().sqrt())
