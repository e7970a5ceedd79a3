# SPDX-License-Identifier: Apache-2.0
"""Ways to change an image, each with a budget in HU, mm or percent."""

from __future__ import annotations

from monai_adversarial.attacks.perturbations.acquisition import (
    Acquisition,
    ContrastPhase,
    CTAcquisition,
    Cupping,
    DoseReduction,
    GantryTilt,
    Ghosting,
    LineMotion,
    MetalStreaks,
    MRIAcquisition,
    ReconstructionKernel,
    RingArtifact,
    SliceThickness,
    SpikeArtifact,
    UltrasoundReconstruction,
    WindowShift,
)
from monai_adversarial.attacks.perturbations.additive import AdditiveNoise, BoundAdditiveNoise
from monai_adversarial.attacks.perturbations.affine import AffineTransform, BoundAffineTransform
from monai_adversarial.attacks.perturbations.base import (
    BoundPerturbation,
    BudgetError,
    Measurement,
    Parameters,
    Perturbation,
)
from monai_adversarial.attacks.perturbations.bias_field import BiasField, BoundBiasField
from monai_adversarial.attacks.perturbations.chain import BoundChain, Chain
from monai_adversarial.attacks.perturbations.coarse_grid import CoarseGrid
from monai_adversarial.attacks.perturbations.cubes import BoundCubes, Cubes
from monai_adversarial.attacks.perturbations.deformation import BoundElasticDeformation, ElasticDeformation
from monai_adversarial.attacks.perturbations.flow import BoundFlowField, FlowField
from monai_adversarial.attacks.perturbations.frequency_quantization import (
    BoundFrequencyQuantization,
    FrequencyQuantization,
)
from monai_adversarial.attacks.perturbations.geometric import BoundGeometric
from monai_adversarial.attacks.perturbations.localized_patch import MATERIALS, BoundLocalizedPatch, LocalizedPatch
from monai_adversarial.attacks.perturbations.minimal import BoundMinimalNoise, MinimalNoise
from monai_adversarial.attacks.perturbations.minimal_base import BoundMinimal, MinimalPerturbation
from monai_adversarial.attacks.perturbations.minimal_flow import BoundMinimalFlow, MinimalFlow
from monai_adversarial.attacks.perturbations.prompt import PromptPerturbation
from monai_adversarial.attacks.perturbations.random_transform import BoundRandomTransform, RandomTransform
from monai_adversarial.attacks.perturbations.speckle import BoundSpeckleNoise, SpeckleNoise
from monai_adversarial.attacks.perturbations.spectral_noise import BoundSpectralNoise, SpectralNoise
from monai_adversarial.attacks.perturbations.texture_statistics import BoundTextureStatistics, TextureStatistics
from monai_adversarial.attacks.perturbations.tiled import BoundTiledNoise, TiledNoise
from monai_adversarial.attacks.perturbations.warp import warp_class_map, warp_linear, warp_nearest
from monai_adversarial.utils.jacobian import jacobian_determinant, lowest_corner_determinant

__all__ = [
    "BoundFlowField",
    "BoundMinimal",
    "BoundMinimalFlow",
    "FlowField",
    "MinimalFlow",
    "MinimalPerturbation",
    "MATERIALS",
    "BoundLocalizedPatch",
    "LocalizedPatch",
    "Acquisition",
    "ContrastPhase",
    "CTAcquisition",
    "Cupping",
    "DoseReduction",
    "GantryTilt",
    "Ghosting",
    "LineMotion",
    "MetalStreaks",
    "MRIAcquisition",
    "ReconstructionKernel",
    "RingArtifact",
    "SliceThickness",
    "SpikeArtifact",
    "UltrasoundReconstruction",
    "WindowShift",
    "CoarseGrid",
    "AdditiveNoise",
    "AffineTransform",
    "BiasField",
    "BoundAdditiveNoise",
    "BoundAffineTransform",
    "BoundBiasField",
    "BoundChain",
    "BoundCubes",
    "BoundElasticDeformation",
    "BoundFrequencyQuantization",
    "BoundGeometric",
    "BoundMinimalNoise",
    "BoundPerturbation",
    "BoundSpeckleNoise",
    "BoundSpectralNoise",
    "BudgetError",
    "BoundRandomTransform",
    "Chain",
    "Cubes",
    "ElasticDeformation",
    "FrequencyQuantization",
    "Measurement",
    "MinimalNoise",
    "Parameters",
    "Perturbation",
    "PromptPerturbation",
    "RandomTransform",
    "BoundTextureStatistics",
    "TextureStatistics",
    "BoundTiledNoise",
    "TiledNoise",
    "SpeckleNoise",
    "SpectralNoise",
    "jacobian_determinant",
    "lowest_corner_determinant",
    "warp_class_map",
    "warp_linear",
    "warp_nearest",
]
