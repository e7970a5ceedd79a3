# SPDX-License-Identifier: Apache-2.0
"""A detector by the spectrum of the image, without any network."""

from __future__ import annotations

from typing import Any

from monai_adversarial.detection.features import RadialSpectrum
from monai_adversarial.detection.gaussian import GaussianDensity
from monai_adversarial.utils.validation import check_count

__all__ = ["FrequencyProfile"]


class FrequencyProfile(GaussianDensity):
    """Squared Mahalanobis distance of the logarithmic power in bands of frequency from that of clean images.

    >>> import torch
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import FrequencyProfile
    >>> detector = FrequencyProfile(example_case()[0], bands=4).fit(example_case(16, seed)[1] for seed in range(6))
    >>> clean = example_case(16, 9)[1]
    >>> bool(detector.score(clean + 8 * torch.randn(clean.shape).sign()) > detector.score(clean))
    True

    Args:
        model: says the units of the images; it is not asked.
        bands: between 0 and half a cycle per voxel; one more holds the corners beyond.

    Source: own; spectra as features of a detector are common, and no one paper is followed.

    Survey entry: T11 (own).
    """

    def __init__(self, model: Any, bands: int = 8) -> None:
        super().__init__(model)
        self.bands = check_count("bands", bands)
        self.features = RadialSpectrum(self.bands)
