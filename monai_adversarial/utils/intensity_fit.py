# SPDX-License-Identifier: Apache-2.0
"""The clipped affine map that lies between an image and what a transform made of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from monai_adversarial.utils.intensity_map import IntensityMap

__all__ = ["LARGEST_RESIDUAL", "Fit", "fit_intensity", "map_of_rows", "sampled_places"]

#: a step is a clipped affine map of its input where the fit misses no voxel by more than this share of the output range
LARGEST_RESIDUAL = 1e-3
#: voxels of a channel that a fit looks at, besides its extremes
VOXELS = 1 << 15
#: a fit with clipping must miss this much less than one without to be preferred
CLEARLY = 0.1


@dataclass(frozen=True)
class Fit:
    """The fitted map of one channel; see ``IntensityMap`` for its numbers.

    Args:
        scale, offset, low, high, held, held_at: numbers of the map, with infinities and NaN for what there is not.
        residual: largest miss as a share of the output's range.
        flat: the channel has no contrast, so that it tells no scale: all of it is held.
    """

    #: columns of ``row``
    RESIDUAL: ClassVar[int] = 6
    FLAT: ClassVar[int] = 7

    scale: float
    offset: float
    low: float = -math.inf
    high: float = math.inf
    held: float = math.nan
    held_at: float = math.nan
    residual: float = 0.0
    flat: bool = False

    def row(self) -> tuple[float, ...]:
        """Its numbers in the order above."""
        return (self.scale, self.offset, self.low, self.high, self.held, self.held_at, self.residual, float(self.flat))


def sampled_places(voxels: torch.Tensor) -> torch.Tensor:
    """Where to look in a flat channel: evenly spread voxels, none twice, and its lowest and highest."""
    count = voxels.numel()
    if count <= VOXELS:
        return torch.arange(count, device=voxels.device)
    # The golden section spreads evenly whatever the shape of the volume.
    golden = (math.sqrt(5) - 1) / 2
    steps = torch.arange(VOXELS, dtype=torch.float64, device=voxels.device)
    places = ((steps * golden) % 1.0 * count).long().clamp_max(count - 1)
    extremes = torch.stack([voxels.argmin(), voxels.argmax()])
    return torch.cat([places, extremes]).unique()


def fit_intensity(before: torch.Tensor, after: torch.Tensor, held: Iterable[float] = ()) -> Fit:
    """Fit ``after = clip(before * scale + offset, low, high)``, but for voxels that are held at one value.

    Args:
        before, after: values of the same voxels, (voxels,), float64.
        held: output values at which voxels are known to be held, tried first.

    Returns:
        The map; its ``residual`` says whether it is one. A channel without contrast has a map that holds all of it.
    """
    span = float(after.max() - after.min())
    if not math.isfinite(span) or not bool(torch.isfinite(before).all()):
        return Fit(1.0, 0.0, residual=math.inf)
    if span == 0 or float(before.max() - before.min()) == 0:
        if span > 0:
            return Fit(1.0, 0.0, residual=math.inf)
        value, raw = float(after[0]), float(before[0])
        same = bool((before == before[0]).all())
        return Fit(1.0, value - raw, held=value, held_at=raw if same else math.nan, flat=True)
    for value in held:
        found = _fit_but(before, after, value, span)
        if found is not None:
            return found
    plain = _fit_clipped(before, after, span)
    if plain.residual <= LARGEST_RESIDUAL:
        return plain
    for value in (0.0, float(after.mode().values), float(after.min()), float(after.max())):
        found = _fit_but(before, after, value, span)
        if found is not None:
            return found
    return plain


def _fit_but(before: torch.Tensor, after: torch.Tensor, value: float, span: float) -> Fit | None:
    """The fit of the voxels that are not held at ``value``, if it is one."""
    at_value = after == value
    rest = ~at_value
    if not bool(at_value.any()) or not bool(rest.any()):
        return None
    x, y = before[rest], after[rest]
    if float(y.max() - y.min()) == 0 or float(x.max() - x.min()) == 0:
        return None
    found = _fit_clipped(x, y, span)
    if found.residual > LARGEST_RESIDUAL:
        return None
    raw = before[at_value]
    held_at = float(raw[0]) if bool((raw == raw[0]).all()) else math.nan
    return Fit(found.scale, found.offset, found.low, found.high, value, held_at, found.residual)


def _fit_clipped(x: torch.Tensor, y: torch.Tensor, span: float) -> Fit:
    scale, offset = _line(x, y)
    residual = float((x * scale + offset - y).abs().max()) / span if scale else math.inf
    best = Fit(scale, offset, residual=residual)
    bottom, top = float(y.min()), float(y.max())
    inside = (y > bottom + 1e-6 * span) & (y < top - 1e-6 * span)
    inner = x[inside]
    if inner.numel() < 2 or float(inner.max() - inner.min()) == 0:
        return best
    scale, offset = _line(inner, y[inside])
    if scale == 0:
        return best
    line = x * scale + offset
    residual = float((line.clamp(bottom, top) - y).abs().max()) / span
    if residual >= CLEARLY * best.residual:
        return best
    low = bottom if float(line.min()) < bottom - 1e-5 * span else -math.inf
    high = top if float(line.max()) > top + 1e-5 * span else math.inf
    return Fit(scale, offset, low, high, residual=residual)


def _line(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Least squares."""
    middle_x, middle_y = x.mean(), y.mean()
    centered = x - middle_x
    scale = float((centered * (y - middle_y)).sum() / centered.square().sum())
    return scale, float(middle_y) - scale * float(middle_x)


def map_of_rows(rows: torch.Tensor) -> IntensityMap:
    """The map of fitted numbers (batch or 1, channel or 1, 6 or more) in the order of ``Fit``."""
    scale, offset, low, high, held, held_at = rows.double().unbind(dim=2)[:6]
    return IntensityMap(
        scale,
        offset,
        None if bool(torch.isneginf(low).all()) else low,
        None if bool(torch.isposinf(high).all()) else high,
        None if bool(held.isnan().all()) else held,
        held_at,
    )
