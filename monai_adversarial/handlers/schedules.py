# SPDX-License-Identifier: Apache-2.0
"""How strong an attack is at which point of a training."""

from __future__ import annotations

from collections.abc import Callable

from monai_adversarial.utils.draws import chance
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["LinearSchedule", "Schedule", "UniformSchedule", "chance"]

#: (epochs that have passed, with fraction; iteration from 1) -> value
Schedule = Callable[[float, int], float]


class LinearSchedule:
    """From ``start`` to ``end`` in a straight line, constant before and afterwards: a curriculum.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.handlers import AdversarialTraining, LinearSchedule
    >>> ramp = LinearSchedule(0.0, 1.0, epochs=10, first_epoch=5)
    >>> [ramp(epoch, 0) for epoch in (0, 5, 10, 15, 100)]
    [0.0, 0.0, 0.5, 1.0, 1.0]
    >>> handler = AdversarialTraining(PGD(8, "HU"), budget=ramp)

    Args:
        start: value until ``first_epoch``.
        end: value from ``first_epoch + epochs`` on.
        epochs: length of the ramp.
        first_epoch: epochs that pass before it begins.

    Raises:
        ValueError: for negative values or a ramp without length.
    """

    def __init__(self, start: float, end: float, epochs: float, first_epoch: float = 0.0) -> None:
        self.start = check_positive("start", start, allow_zero=True)
        self.end = check_positive("end", end, allow_zero=True)
        self.epochs = check_positive("epochs", epochs)
        self.first_epoch = check_positive("first_epoch", first_epoch, allow_zero=True)

    def __repr__(self) -> str:
        return f"LinearSchedule({self.start:g} to {self.end:g} in {self.epochs:g} epochs from {self.first_epoch:g})"

    def __call__(self, epoch: float, iteration: int) -> float:
        """The value after ``epoch`` epochs."""
        passed = min(max((epoch - self.first_epoch) / self.epochs, 0.0), 1.0)
        return self.start + (self.end - self.start) * passed


class UniformSchedule:
    """A new value between two bounds in each iteration: several strengths in one training (Xu et al. 2021).

    >>> from monai_adversarial.handlers import UniformSchedule
    >>> strengths = UniformSchedule(0.25, 1.0, seed=1)
    >>> values = [strengths(0.0, iteration) for iteration in range(100)]
    >>> all(0.25 <= value <= 1.0 for value in values), strengths(0.0, 7) == values[7]
    (True, True)

    Args:
        low: lower bound.
        high: upper bound.
        seed: with the iteration's number it fixes the value.

    Raises:
        ValueError: for negative bounds or ``low > high``.
    """

    def __init__(self, low: float, high: float, seed: int = 0) -> None:
        self.low = check_positive("low", low, allow_zero=True)
        self.high = check_positive("high", high, allow_zero=True)
        if self.low > self.high:
            raise ValueError(f"low must not be above high, got {low!r} and {high!r}.")
        self.seed = check_count("seed", seed, minimum=0)

    def __repr__(self) -> str:
        return f"UniformSchedule({self.low:g} to {self.high:g})"

    def __call__(self, epoch: float, iteration: int) -> float:
        """The value of one iteration."""
        return self.low + (self.high - self.low) * chance(self.seed, iteration)
