# SPDX-License-Identifier: Apache-2.0
"""The values that a file can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

__all__ = ["StoredGrid"]

# Share of a step by which floating point may misplace a value of the grid.
SLACK = 1e-6


@dataclass(frozen=True)
class StoredGrid:
    """Evenly spaced values ``intercept + k * step`` for whole ``k``, from ``low`` to ``high``: what an integer file
    with a scaling can hold, in the units of the image (HU).

    Args:
        step: distance of two values, the file's slope; 1 for whole numbers.
        intercept: the file's intercept.
        low: lowest value that the file's type can hold, for example 0 for unsigned integers; None for no bound.
        high: highest value; None for no bound.

    Raises:
        ValueError: for a step that is not above 0, or bounds that are not low < high.
    """

    step: float = 1.0
    intercept: float = 0.0
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.step < math.inf or not math.isfinite(self.intercept):
            raise ValueError(
                f"a StoredGrid needs a finite step > 0 and a finite intercept, got {self.step!r} and "
                f"{self.intercept!r}."
            )
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"a StoredGrid needs low < high, got {self.low!r} and {self.high!r}.")

    @property
    def rounding(self) -> float:
        """Largest distance of a number in the range from the nearest value."""
        return self.step / 2

    @property
    def lowest(self) -> float | None:
        """Number ``k`` of the lowest value; None for no bound."""
        return None if self.low is None else float(math.ceil((self.low - self.intercept) / self.step - SLACK))

    @property
    def highest(self) -> float | None:
        """Number ``k`` of the highest value; None for no bound."""
        return None if self.high is None else float(math.floor((self.high - self.intercept) / self.step + SLACK))

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest value of the grid, halves to even."""
        return self.value(self.place(values.double()).round_()).to(values.dtype)

    def holds(self, values: torch.Tensor) -> bool:
        """Whether all values lie in the range."""
        low = self.low is None or float(values.min()) >= self.low - self.rounding
        return low and (self.high is None or float(values.max()) <= self.high + self.rounding)

    def place(self, values: torch.Tensor) -> torch.Tensor:
        """Where values lie on the grid: ``k``, whole for a value of it; float64, because a file's slope can be finer
        than float32 resolves at 3000 HU."""
        return (values - self.intercept) / self.step

    def value(self, place: torch.Tensor) -> torch.Tensor:
        """The value number ``place`` (float64, whole), inside the range."""
        if self.lowest is not None or self.highest is not None:
            place = place.clamp(self.lowest, self.highest)
        return place * self.step + self.intercept

    def first_from(self, low: torch.Tensor) -> torch.Tensor:
        """Number of the first value at or above ``low`` (float64)."""
        return (self.place(low) - SLACK).ceil_()

    def last_until(self, high: torch.Tensor) -> torch.Tensor:
        """Number of the last value at or below ``high`` (float64)."""
        return (self.place(high) + SLACK).floor_()

    def snapped(self, values: torch.Tensor, resolution: float) -> torch.Tensor:
        """Float64 values that were read in less precision, as the file has them: those within the precision of a
        value of the grid become it.

        Args:
            values: float64.
            resolution: relative precision in which they were read.
        """
        own = self.value(self.place(values).round_())
        room = torch.maximum(values.abs(), own.abs()).clamp_min_(abs(self.intercept)).mul_(2 * resolution)
        return torch.where((own - values).abs() <= room, own, values)
