# SPDX-License-Identifier: Apache-2.0
"""The wavelet transform of JPEG 2000 (Cohen, Daubechies, Feauveau 9/7), differentiable, by lifting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from monai_adversarial.purifiers.discrete_cosine import pad_to_blocks

__all__ = ["map_details", "soft_dead_zone"]

#: lifting steps (ITU-T T.800, annex F) and the scale that makes noise equally strong in all coefficients
LIFTING = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
SCALE = 1.149604398860241


def map_details(
    image: torch.Tensor, axes: Sequence[int], levels: int, function: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Transform ``image`` along ``axes``, apply ``function`` to the detail coefficients, and transform back.

    Coefficients are those of PyWavelets' ``bior4.4``, and the borders are mirrored as in JPEG 2000; axes that the
    levels do not divide are continued by their last value.

    >>> import torch
    >>> from monai_adversarial.purifiers.biorthogonal_wavelet import map_details
    >>> image = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    >>> same = map_details(image, axes=(2, 3), levels=2, function=lambda details: details)
    >>> smooth = map_details(image, axes=(2, 3), levels=2, function=torch.zeros_like)
    >>> torch.allclose(same, image, atol=1e-5), bool(smooth.std() < 0.5 * image.std())
    (True, True)
    """
    block = [2**levels if axis in axes else 1 for axis in range(image.ndim)]
    out = _map(pad_to_blocks(image, block), axes, levels, function)
    return out[tuple(slice(length) for length in image.shape)]


def soft_dead_zone(coefficients: torch.Tensor, threshold: float, spread: float) -> torch.Tensor:
    """Expectation of hard thresholding when the coefficients carry normal noise of ``spread``: differentiable, and
    steepest where a coefficient is about to survive.

    >>> import torch
    >>> from monai_adversarial.purifiers.biorthogonal_wavelet import soft_dead_zone
    >>> small, border, large = soft_dead_zone(torch.tensor([2.0, 10.0, 50.0]), threshold=10.0, spread=1.0).tolist()
    >>> abs(small) < 0.01, 3 < border < 7, abs(large - 50) < 0.01
    (True, True, True)
    """
    above, below = (threshold - coefficients) / spread, (-threshold - coefficients) / spread
    survives = 1.0 - (torch.special.ndtr(above) - torch.special.ndtr(below))
    density = torch.exp(-0.5 * above.square()) - torch.exp(-0.5 * below.square())
    return coefficients * survives + density * (spread / math.sqrt(2.0 * math.pi))


def _map(
    image: torch.Tensor, axes: Sequence[int], levels: int, function: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    if levels == 0:
        return image
    bands = [image]
    for axis in axes:
        bands = [half for band in bands for half in _analyze(band, axis)]
    bands = [_map(bands[0], axes, levels - 1, function), *map(function, bands[1:])]
    for axis in reversed(axes):
        bands = [_synthesize(*pair, axis) for pair in zip(bands[::2], bands[1::2], strict=True)]
    return bands[0]


def _analyze(image: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Low and high half of an axis of even length."""
    even, odd = image.unflatten(axis, (-1, 2)).unbind(axis + 1)
    for number, weight in enumerate(LIFTING):
        if number % 2 == 0:
            odd = odd + weight * (even + _neighbor(even, axis, 1))
        else:
            even = even + weight * (odd + _neighbor(odd, axis, -1))
    return even * SCALE, odd / SCALE


def _synthesize(low: torch.Tensor, high: torch.Tensor, axis: int) -> torch.Tensor:
    """The inverse of :func:`_analyze`."""
    even, odd = low / SCALE, high * SCALE
    for number, weight in reversed(list(enumerate(LIFTING))):
        if number % 2 == 0:
            odd = odd - weight * (even + _neighbor(even, axis, 1))
        else:
            even = even - weight * (odd + _neighbor(odd, axis, -1))
    return torch.stack([even, odd], dim=axis + 1).flatten(axis, axis + 1)


def _neighbor(half: torch.Tensor, axis: int, step: int) -> torch.Tensor:
    """The next (1) or previous (-1) value along an axis; at the border the value itself, which mirrors the image."""
    rest = half.shape[axis] - 1
    if step == 1:
        return torch.cat([half.narrow(axis, 1, rest), half.narrow(axis, rest, 1)], dim=axis)
    return torch.cat([half.narrow(axis, 0, 1), half.narrow(axis, 0, rest)], dim=axis)
