# SPDX-License-Identifier: Apache-2.0
"""Inferers that make whole-volume inference differentiable with bounded memory and in the scanner's own space."""

from __future__ import annotations

from .memory_bounded import MemoryBoundedSlidingWindowInferer, memory_bounded
from .purified import PurifiedInferer
from .scanner_space import ScannerSpaceInferer

__all__ = ["MemoryBoundedSlidingWindowInferer", "PurifiedInferer", "ScannerSpaceInferer", "memory_bounded"]
