# SPDX-License-Identifier: Apache-2.0
"""Inferers: whole volumes with bounded memory, in the scanner's own space, purified, smoothed and certified."""

from __future__ import annotations

from .certified_segmentation import ABSTAIN, CertifiedSegmentation, CertifiedSegmentationInferer
from .dual_normalization import DualNormalizationInferer
from .memory_bounded import MemoryBoundedSlidingWindowInferer, memory_bounded
from .noisy_majority import NoisyMajorityInferer, NoisyVotes
from .purified import PurifiedInferer
from .scanner_space import ScannerSpaceInferer

__all__ = [
    "ABSTAIN",
    "CertifiedSegmentation",
    "CertifiedSegmentationInferer",
    "DualNormalizationInferer",
    "MemoryBoundedSlidingWindowInferer",
    "NoisyMajorityInferer",
    "NoisyVotes",
    "PurifiedInferer",
    "ScannerSpaceInferer",
    "memory_bounded",
]
