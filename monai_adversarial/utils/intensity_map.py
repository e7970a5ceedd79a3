# SPDX-License-Identifier: Apache-2.0
"""A clipped affine map from raw voxels to a network's values, one for all images or one per sample and channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

__all__ = ["MOST_OUTSIDE", "IntensityMap", "Value"]

#: share of voxels that may lie far outside, such as metal, before a map is taken not to be the one that scaled an image
MOST_OUTSIDE = 0.01
#: two maps are the same when their values differ by less than this share of their range
SAME = 1e-4
#: float32 roundings that a voxel which a pipeline held may have gone through
HELD_ROUNDINGS = 8
#: maps of samples and channels that a text shows
SHOWN = 4

Value = float | torch.Tensor


@dataclass(frozen=True, eq=False)
class IntensityMap:
    """Affine intensity map with optional clipping: ``network = clip(image * scale + offset, low, high)``.

    Raw voxels are called HU here: for MRI and RGB it is the unit of the file. Each number may be a float, the same for
    all images, or a tensor (batch or 1, channel or 1), whatever the rank of the images; trailing axes of length 1 are
    dropped.

    >>> import torch
    >>> from monai_adversarial.attacks import IntensityMap
    >>> window = IntensityMap.from_window(-160, 240)
    >>> window(torch.tensor([-1000.0, 40.0, 500.0])).tolist(), window.window
    ([0.0, 0.5, 1.0], (-160.0, 240.0))
    >>> window.inverse(torch.tensor([0.5])).tolist()
    [40.0]

    Args:
        scale: network units per HU, not zero; negative for a map that inverts the image.
        offset: network value of 0 HU.
        low: lowest network value, None (in a tensor ``-inf``) for no clipping.
        high: highest network value, None (in a tensor ``inf``) for no clipping.
        held: network value at which the pipeline holds voxels that it does not map, such as the zeros of
            ``NormalizeIntensity(nonzero=True)``; None (in a tensor NaN) where it maps all of them.
        held_at: raw value of those voxels; NaN where they have several.

    Raises:
        ValueError: for a scale that is zero or not finite.
    """

    scale: Value
    offset: Value
    low: Value | None = None
    high: Value | None = None
    held: Value | None = None
    held_at: Value = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor):
                object.__setattr__(self, field.name, _two_axes(field.name, value))
        scale = self.scale
        if isinstance(scale, torch.Tensor):
            fine = bool((torch.isfinite(scale) & (scale != 0)).all())
        else:
            fine = math.isfinite(scale) and scale != 0
        if not fine:
            raise ValueError(
                f"scale of an IntensityMap must be finite and not 0 network units per HU, got {self.scale!r}."
            )

    @classmethod
    def from_window(
        cls, a_min: float, a_max: float, b_min: float = 0.0, b_max: float = 1.0, clip: bool = True
    ) -> IntensityMap:
        """Map the window ``a_min`` to ``a_max`` (HU) to ``b_min`` to ``b_max``, as MONAI's ``ScaleIntensityRange``."""
        if not a_max > a_min:
            raise ValueError(f"an intensity window needs a_max > a_min (HU), got a_min={a_min!r}, a_max={a_max!r}.")
        if not b_max > b_min:
            raise ValueError(f"an intensity window needs b_max > b_min, got b_min={b_min!r}, b_max={b_max!r}.")
        scale = (b_max - b_min) / (a_max - a_min)
        return cls(scale, b_min - a_min * scale, b_min if clip else None, b_max if clip else None)

    @property
    def values(self) -> tuple[Value | None, ...]:
        """All its numbers, in the order of its arguments."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @property
    def is_uniform(self) -> bool:
        """Whether it is one map for all samples and channels, in plain numbers."""
        return not any(isinstance(value, torch.Tensor) for value in self.values)

    @property
    def size(self) -> Value:
        """Network units per HU without the sign: what a difference is multiplied with."""
        return self.scale.abs() if isinstance(self.scale, torch.Tensor) else abs(self.scale)

    @property
    def window(self) -> tuple[Value, Value] | None:
        """The interval of HU that is not clipped, lower edge first; None without clipping on both sides."""
        low, high = self.low, self.high
        if low is None or high is None:
            return None
        if any(isinstance(edge, torch.Tensor) and not bool(torch.isfinite(edge).all()) for edge in (low, high)):
            return None
        first, second = (low - self.offset) / self.scale, (high - self.offset) / self.scale
        if isinstance(first, torch.Tensor) or isinstance(second, torch.Tensor):
            pair = torch.broadcast_tensors(torch.as_tensor(first), torch.as_tensor(second))
            return torch.minimum(*pair), torch.maximum(*pair)
        return (first, second) if self.scale > 0 else (second, first)

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """HU to network values, for an image (batch, channel, spatial...)."""
        mapped = image * self.like(self.scale, image) + self.like(self.offset, image)
        mapped = _clip(mapped, self.like(self.low, image), self.like(self.high, image))
        if self.held is None:
            return mapped
        held = torch.as_tensor(self.like(self.held, image), dtype=image.dtype, device=image.device)
        return torch.where((image == self.like(self.held_at, image)) & ~held.isnan(), held, mapped)

    def inverse(self, image: torch.Tensor) -> torch.Tensor:
        """Network values to HU; what the window clipped stays at its edge, and voxels that the pipeline holds get the
        raw value that they have, where it is one."""
        raw = (image - self.like(self.offset, image)) / self.like(self.scale, image)
        if self.held is None:
            return raw
        held_at = torch.as_tensor(self.like(self.held_at, image), dtype=image.dtype, device=image.device)
        return torch.where(self._holds(image) & ~held_at.isnan(), held_at, raw)

    @staticmethod
    def like(value: Any, image: torch.Tensor) -> Any:
        """A number of a map so that it broadcasts over an image (batch, channel, spatial...), in its dtype."""
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(image).view(*value.shape, *([1] * (image.ndim - 2)))

    def fraction_outside(self, image: torch.Tensor) -> float:
        """The share of an image's voxels that lie more than a quarter of the window outside what this map gives, which
        it therefore did not scale; 0 for a map that does not clip. Voxels that the pipeline holds may lie anywhere."""
        if self.low is None or self.high is None:
            return 0.0
        low, high = self.like(self.low, image), self.like(self.high, image)
        room = 0.25 * (high - low)
        outside = (image < low - room) | (image > high + room)
        return float((outside & ~self._holds(image)).float().mean())

    def reachable(self, image: torch.Tensor) -> torch.Tensor:
        """Boolean, like an image in network values: voxels that a change of the raw image moves as the map says. Those
        at the window's edges may stand for any HU beyond, and those that the pipeline holds do not move at all."""
        fine = torch.ones_like(image, dtype=torch.bool)
        if self.low is not None:
            fine = fine & (image > self.like(self.low, image))
        if self.high is not None:
            fine = fine & (image < self.like(self.high, image))
        return fine & ~self._holds(image)

    def _holds(self, image: torch.Tensor) -> torch.Tensor:
        """Boolean, like an image in network values: voxels at the value at which the pipeline holds some."""
        if self.held is None:
            return torch.zeros_like(image, dtype=torch.bool)
        held = torch.as_tensor(self.like(self.held, image), dtype=image.dtype, device=image.device)
        room = HELD_ROUNDINGS * torch.finfo(torch.float32).eps * held.abs().clamp_min(1.0)
        return (image - held).abs() <= room

    def then(self, second: IntensityMap) -> IntensityMap:
        """This map followed by another one, which takes its network values as HU."""
        a, b = (one._tensors() for one in (self, second))
        edges = [edge * b["scale"] + b["offset"] for edge in (a["low"], a["high"])]
        low, high = torch.minimum(*edges), torch.maximum(*edges)
        # The first map's voxels that are held go through the second; its own stand for what the first one maps there.
        through = a["held"] * b["scale"] + b["offset"]
        through = torch.minimum(torch.maximum(through, b["low"]), b["high"])
        through = torch.where((a["held"] == b["held_at"]) & ~b["held"].isnan(), b["held"], through)
        first = ~a["held"].isnan()
        before = (b["held_at"] - a["offset"]) / a["scale"]
        return _from_tensors(
            a["scale"] * b["scale"],
            a["offset"] * b["scale"] + b["offset"],
            torch.minimum(torch.maximum(low, b["low"]), b["high"]),
            torch.minimum(torch.maximum(high, b["low"]), b["high"]),
            torch.where(first, through, b["held"]),
            torch.where(first, a["held_at"], before),
            scalar=self.is_uniform and second.is_uniform,
        )

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Its numbers as float64 tensors on the CPU, with infinities and NaN for what is None."""
        missing = {"low": -math.inf, "high": math.inf, "held": math.nan}
        return {
            field.name: torch.as_tensor(
                missing[field.name] if value is None else value, dtype=torch.float64, device="cpu"
            )
            for field, value in zip(fields(self), self.values, strict=True)
        }

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> IntensityMap:
        if self.is_uniform:
            return self
        return IntensityMap(*(change(v) if isinstance(v, torch.Tensor) else v for v in self.values))  # type: ignore[arg-type]

    def select(self, samples: Sequence[int]) -> IntensityMap:
        """The map of some samples of the batch."""
        return self._changed(lambda v: v if v.shape[0] == 1 else v[torch.as_tensor(list(samples), device=v.device)])

    def channels(self, channels: Sequence[int]) -> IntensityMap:
        """The map of some channels of the images."""
        return self._changed(lambda v: v if v.shape[1] == 1 else v[:, torch.as_tensor(list(channels), device=v.device)])

    def to(self, device: torch.device | str) -> IntensityMap:
        """The map on another device, so that calling it copies nothing."""
        return self._changed(lambda value: value.to(device))

    def agrees_with(self, other: IntensityMap, tolerance: float = SAME) -> bool:
        """Whether both give the same network values, to ``tolerance`` of their range; voxels that one of them holds do
        not count."""
        a, b = self._tensors(), other._tensors()
        try:
            torch.broadcast_shapes(a["scale"].shape, a["offset"].shape, b["scale"].shape, b["offset"].shape)
        except RuntimeError:
            return False
        span = a["high"] - a["low"]
        span = torch.where(torch.isfinite(span), span, torch.maximum(a["offset"].abs(), 100 * a["scale"].abs()))
        same = [(a["scale"] - b["scale"]).abs() <= tolerance * a["scale"].abs()]
        same.append((a["offset"] - b["offset"]).abs() <= tolerance * torch.maximum(a["offset"].abs(), span))
        for edge in ("low", "high"):
            both_open = a[edge] == b[edge]
            same.append(both_open | ((a[edge] - b[edge]).abs() <= tolerance * span))
        return all(bool(one.all()) for one in same)

    def unclipped_within(self, image: torch.Tensor, other: IntensityMap) -> IntensityMap:
        """The same map without the edges that an image in network values does not reach, where another map, which was
        made of that image, has none.

        Args:
            image: (batch, channel, spatial...).
            other: the other map.
        """
        if not self.is_uniform:
            return self
        open_low, open_high = (bool(torch.isinf(other._tensors()[edge]).all()) for edge in ("low", "high"))
        below = self.low is not None and open_low and float(image.min()) > float(self.low)
        above = self.high is not None and open_high and float(image.max()) < float(self.high)
        return replace(self, low=None if below else self.low, high=None if above else self.high)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntensityMap):
            return NotImplemented
        return all(_same(a, b) for a, b in zip(self.values, other.values, strict=True))

    def __hash__(self) -> int:
        plain = (v.tolist() if isinstance(v, torch.Tensor) else v for v in self.values)
        return hash(str(tuple(plain)))

    def __str__(self) -> str:
        if self.is_uniform:
            return _describe(*(None if value is None else float(value) for value in self.values))
        rows = torch.broadcast_tensors(*self._tensors().values())
        maps = [_describe(*(float(v) for v in numbers)) for numbers in zip(*(r.flatten() for r in rows), strict=True)]
        channels = rows[0].shape[1]
        several = rows[0].shape[0] > 1
        if len(set(maps)) == 1:
            return maps[0]
        named = []
        for i, text in enumerate(maps[:SHOWN]):
            place = [f"sample {i // channels}"] if several else []
            place += [f"channel {i % channels}"] if channels > 1 else []
            named.append(f"{' '.join(place)}: {text}")
        return "; ".join(named) + (f"; and {len(maps) - SHOWN} more" if len(maps) > SHOWN else "")


def _two_axes(name: str, value: torch.Tensor) -> torch.Tensor:
    """(batch or 1, channel or 1), float64."""
    value = value.detach().double()
    if value.ndim < 2 or any(length != 1 for length in value.shape[2:]):
        raise ValueError(
            f"{name} of an IntensityMap must be a number or a tensor (batch or 1, channel or 1), got shape "
            f"{tuple(value.shape)}."
        )
    return value.reshape(value.shape[:2])


def _clip(mapped: torch.Tensor, low: Any, high: Any) -> torch.Tensor:
    if low is None and high is None:
        return mapped
    if not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor):
        return mapped.clamp(low, high)
    if low is not None:
        mapped = torch.maximum(mapped, torch.as_tensor(low).to(mapped))
    return mapped if high is None else torch.minimum(mapped, torch.as_tensor(high).to(mapped))


def _from_tensors(
    scale: torch.Tensor,
    offset: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    held: torch.Tensor,
    held_at: torch.Tensor,
    scalar: bool,
) -> IntensityMap:
    """A map from float64 tensors in which infinities and NaN stand for None."""
    low_or_none = None if bool(torch.isneginf(low).all()) else low
    high_or_none = None if bool(torch.isposinf(high).all()) else high
    held_or_none = None if bool(held.isnan().all()) else held
    numbers = [scale, offset, low_or_none, high_or_none, held_or_none, None if held_or_none is None else held_at]
    if scalar:
        values: list[Any] = [None if number is None else float(number) for number in numbers]
    else:
        values = [number if number is None or number.ndim else number.reshape(1, 1) for number in numbers]
    if values[-1] is None:
        values[-1] = 0.0
    return IntensityMap(*values)


def _same(a: Value | None, b: Value | None) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and bool(torch.allclose(a, b.to(a), rtol=0.0, atol=0.0, equal_nan=True))
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return False
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


def _describe(
    scale: float | None,
    offset: float | None,
    low: float | None,
    high: float | None,
    held: float | None,
    held_at: float | None,
) -> str:
    assert scale is not None and offset is not None
    low = None if low is None or math.isinf(low) else low
    high = None if high is None or math.isinf(high) else high
    if low is not None and high is not None:
        edges = sorted(((edge - offset) / scale, edge) for edge in (low, high))
        text = f"{edges[0][0]:.6g}..{edges[1][0]:.6g} HU -> {edges[0][1]:.6g}..{edges[1][1]:.6g}"
    else:
        text = f"HU * {scale:.4g} {'-' if offset < 0 else '+'} {abs(offset):.4g}"
        if low is not None:
            text += f", at least {low:.6g}"
        if high is not None:
            text += f", at most {high:.6g}"
        if low is None and high is None:
            text = "HU as they are" if (scale, offset) == (1.0, 0.0) else f"{text}, not clipped"
    if held is not None and not math.isnan(held):
        raw = "some voxels" if held_at is None or math.isnan(held_at) else f"voxels of {held_at:.6g} HU"
        text += f", {raw} held at {held:.6g}"
    return text
