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
    def whole(self) -> bool:
        """The values are the whole numbers."""
        return self.step == 1.0 and float(self.intercept).is_integer()

    @property
    def rounding(self) -> float:
        """Largest distance of a number in the range from the nearest value."""
        return self.step / 2

    @property
    def slack(self) -> float:
        """Distance at which floating point takes two numbers for the same value; 0 for whole numbers."""
        return 0.0 if self.whole else SLACK * self.step

    def nearest(self, values: torch.Tensor) -> torch.Tensor:
        """The nearest value of the grid, halves to even."""
        if self.whole:
            return self._inside(values.round())
        return self._value(self._place(values).round(), values)

    def toward(self, values: torch.Tensor, below: torch.Tensor) -> torch.Tensor:
        """The next value of the grid at or below the given ones where ``below``, at or above them elsewhere."""
        if self.whole:
            return self._inside(torch.where(below, values.floor(), values.ceil()))
        place = self._place(values)
        return self._value(torch.where(below, (place + SLACK).floor(), (place - SLACK).ceil()), values)

    def holds(self, values: torch.Tensor) -> bool:
        """Whether all values lie in the range."""
        low = self.low is None or float(values.min()) >= self.low - self.rounding
        return low and (self.high is None or float(values.max()) <= self.high + self.rounding)

    def _place(self, values: torch.Tensor) -> torch.Tensor:
        # float64: a file's slope can be finer than float32 resolves at 3000 HU
        return (values.double() - self.intercept) / self.step

    def _value(self, place: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        low = None if self.low is None else math.ceil((self.low - self.intercept) / self.step - SLACK)
        high = None if self.high is None else math.floor((self.high - self.intercept) / self.step + SLACK)
        if low is not None or high is not None:
            place = place.clamp(low, high)
        return (place * self.step + self.intercept).to(like.dtype)

    def _inside(self, values: torch.Tensor) -> torch.Tensor:
        if self.low is None and self.high is None:
            return values
        return values.clamp(
            None if self.low is None else math.ceil(self.low), None if self.high is None else math.floor(self.high)
        )
