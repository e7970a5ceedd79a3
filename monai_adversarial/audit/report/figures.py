# SPDX-License-Identifier: Apache-2.0
"""Figures as text; what is not a number is named so and never shown as one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["NOT_DEFINED", "defined", "duration", "interval", "number", "percent", "significant", "value_of"]

NOT_DEFINED = "not defined"


def defined(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 3) -> str:
    """A number with fixed digits; ``"not defined"`` for None, NaN and infinity."""
    if not defined(value):
        return NOT_DEFINED
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if not text.strip("-0.") else text.replace("-", "\u2212")


def significant(value: Any, digits: int = 3) -> str:
    """A number with significant digits."""
    return f"{value:.{digits}g}".replace("-", "\u2212") if defined(value) else NOT_DEFINED


def percent(value: Any) -> str:
    """A fraction in percent. What is neither none nor all is never rounded to 0 % or 100 %."""
    if not defined(value):
        return NOT_DEFINED
    if 0 < value < 0.005:
        return "< 0.5 %"
    if 0.995 <= value < 1:
        return "> 99.5 %"
    return f"{100 * value:.0f} %"


def value_of(found: Any, key: str = "mean") -> float | None:
    """A number out of a summary that may be missing, or None."""
    value = found.get(key) if isinstance(found, Mapping) else None
    return float(value) if value is not None and defined(value) else None


def interval(found: Any, digits: int = 3) -> str:
    """Mean with its interval, ``"0.912 [0.880, 0.931]"``; the mean alone where the interval is not defined."""
    mean, low, high = (value_of(found, key) for key in ("mean", "low", "high"))
    if mean is None:
        return NOT_DEFINED
    if low is None or high is None:
        return number(mean, digits)
    return f"{number(mean, digits)} [{number(low, digits)}, {number(high, digits)}]"


def duration(seconds: Any) -> str:
    """Seconds as ``"42 s"``, ``"3 min 20 s"`` or ``"2 h 5 min"``."""
    if not defined(seconds):
        return NOT_DEFINED
    if seconds < 60:
        return f"{significant(float(seconds), 2)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
