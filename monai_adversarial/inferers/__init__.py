# SPDX-License-Identifier: Apache-2.0
"""Inferers: whole volumes with bounded memory, in the scanner's own space, purified, smoothed and certified."""

from __future__ import annotations

from monai_adversarial.inferers.additive_changes import (
    AdditiveChange,
    BiasFieldChange,
    GammaChange,
    ShiftChange,
    TranslationChange,
)
from monai_adversarial.inferers.certified_counts import CertificateCost
from monai_adversarial.inferers.certified_parameters import CertifiedParameterInferer
from monai_adversarial.inferers.certified_segmentation import (
    ABSTAIN,
    CertifiedSegmentation,
    CertifiedSegmentationInferer,
)
from monai_adversarial.inferers.dual_normalization import DualNormalizationInferer
from monai_adversarial.inferers.memory_bounded import (
    MemoryBoundedSliceInferer,
    MemoryBoundedSlidingWindowInferer,
    memory_bounded,
)
from monai_adversarial.inferers.noisy_majority import NoisyMajorityInferer, NoisyVotes
from monai_adversarial.inferers.purified import PurifiedInferer
from monai_adversarial.inferers.scanner_space import ScannerSpaceInferer

__all__ = [
    "ABSTAIN",
    "AdditiveChange",
    "BiasFieldChange",
    "CertificateCost",
    "CertifiedParameterInferer",
    "CertifiedSegmentation",
    "CertifiedSegmentationInferer",
    "DualNormalizationInferer",
    "GammaChange",
    "MemoryBoundedSliceInferer",
    "MemoryBoundedSlidingWindowInferer",
    "NoisyMajorityInferer",
    "NoisyVotes",
    "PurifiedInferer",
    "ScannerSpaceInferer",
    "ShiftChange",
    "TranslationChange",
    "memory_bounded",
]
