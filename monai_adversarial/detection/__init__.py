# SPDX-License-Identifier: Apache-2.0
"""Detectors of attacked images, and the attacker who knows them."""

from __future__ import annotations

from monai_adversarial.detection.attribution_maps import AttributionReconstruction, CoarseAttributions
from monai_adversarial.detection.base import Detector
from monai_adversarial.detection.consistency import OrientationConsistency
from monai_adversarial.detection.density import FeatureDetector
from monai_adversarial.detection.dropout import DropoutUncertainty
from monai_adversarial.detection.ensemble import EnsembleDisagreement
from monai_adversarial.detection.entropy import PredictionEntropy
from monai_adversarial.detection.evading import Evading
from monai_adversarial.detection.features import Features, NetworkFeatures, RadialSpectrum
from monai_adversarial.detection.fitting import chance_of_rejecting, fit_and_calibrate, least_calibration_cases
from monai_adversarial.detection.frequency import FrequencyProfile
from monai_adversarial.detection.gaussian import GaussianDensity, MahalanobisDistance
from monai_adversarial.detection.hiding import HidingFeatures
from monai_adversarial.detection.learned import FeatureClassifier
from monai_adversarial.detection.misplacing import MisplacedAnatomy
from monai_adversarial.detection.mixture import GaussianMixtureDensity
from monai_adversarial.detection.neighbors import KernelDensity, LocalIntrinsicDimensionality
from monai_adversarial.detection.noise_sensitivity import NoiseChanges, NoiseSensitivity
from monai_adversarial.detection.organ_features import OrganFeatures
from monai_adversarial.detection.orthogonal import OrthogonalGradient
from monai_adversarial.detection.plausibility import OrganShapes, SegmentationPlausibility
from monai_adversarial.detection.reconstruction import ReconstructionDivergence, ReconstructionError
from monai_adversarial.detection.saliency import SaliencyConcentrationDetector, SaliencyNumbers
from monai_adversarial.detection.squeezing import FeatureSqueezing, PredictionComparison
from monai_adversarial.detection.table import DetectionRow, DetectionTable, Outcome, evaluate_detector

__all__ = [
    "AttributionReconstruction",
    "CoarseAttributions",
    "DetectionRow",
    "DetectionTable",
    "Detector",
    "DropoutUncertainty",
    "EnsembleDisagreement",
    "Evading",
    "FeatureClassifier",
    "FeatureDetector",
    "FeatureSqueezing",
    "Features",
    "FrequencyProfile",
    "GaussianDensity",
    "GaussianMixtureDensity",
    "HidingFeatures",
    "KernelDensity",
    "LocalIntrinsicDimensionality",
    "MahalanobisDistance",
    "MisplacedAnatomy",
    "NetworkFeatures",
    "NoiseChanges",
    "NoiseSensitivity",
    "OrganFeatures",
    "OrganShapes",
    "OrientationConsistency",
    "OrthogonalGradient",
    "Outcome",
    "PredictionComparison",
    "PredictionEntropy",
    "RadialSpectrum",
    "ReconstructionDivergence",
    "ReconstructionError",
    "SaliencyConcentrationDetector",
    "SaliencyNumbers",
    "SegmentationPlausibility",
    "chance_of_rejecting",
    "evaluate_detector",
    "fit_and_calibrate",
    "least_calibration_cases",
]
