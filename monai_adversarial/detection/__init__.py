# SPDX-License-Identifier: Apache-2.0
"""Detectors of attacked images, and the attacker who knows them."""

from __future__ import annotations

from monai_adversarial.detection.base import Detector
from monai_adversarial.detection.consistency import OrientationConsistency
from monai_adversarial.detection.density import FeatureDetector
from monai_adversarial.detection.entropy import PredictionEntropy
from monai_adversarial.detection.evading import Evading
from monai_adversarial.detection.features import Features, NetworkFeatures, RadialSpectrum
from monai_adversarial.detection.frequency import FrequencyProfile
from monai_adversarial.detection.gaussian import GaussianDensity, MahalanobisDistance
from monai_adversarial.detection.mixture import GaussianMixtureDensity
from monai_adversarial.detection.neighbors import KernelDensity, LocalIntrinsicDimensionality
from monai_adversarial.detection.organ_features import OrganFeatures
from monai_adversarial.detection.squeezing import FeatureSqueezing, PredictionComparison
from monai_adversarial.detection.table import DetectionRow, DetectionTable, Outcome, evaluate_detector

__all__ = [
    "DetectionRow",
    "DetectionTable",
    "Detector",
    "Evading",
    "FeatureDetector",
    "FeatureSqueezing",
    "Features",
    "FrequencyProfile",
    "GaussianDensity",
    "GaussianMixtureDensity",
    "KernelDensity",
    "LocalIntrinsicDimensionality",
    "MahalanobisDistance",
    "NetworkFeatures",
    "OrganFeatures",
    "OrientationConsistency",
    "Outcome",
    "PredictionComparison",
    "PredictionEntropy",
    "RadialSpectrum",
    "evaluate_detector",
]
