# SPDX-License-Identifier: Apache-2.0
"""Networks, layers that make networks more robust, and wrappers of networks."""

from __future__ import annotations

from monai_adversarial.networks.all_convolutional_unet import AllConvolutionalUNet
from monai_adversarial.networks.bounded_relu import BoundedReLU, replace_activations
from monai_adversarial.networks.coordinate_descent import train_by_coordinate_descent
from monai_adversarial.networks.dual_normalization import (
    DualNormalization,
    collapse_dual_normalization,
    convert_dual_normalization,
    has_dual_normalization,
    normalization,
    set_normalization,
)
from monai_adversarial.networks.feature_denoising import FeatureDenoising, insert_feature_denoising
from monai_adversarial.networks.feature_noise import FeatureNoise, insert_feature_noise
from monai_adversarial.networks.patch_discriminator import patch_discriminator
from monai_adversarial.networks.perturbation_generator import PerturbationGenerator
from monai_adversarial.networks.point_prompts import PointPromptedNetwork
from monai_adversarial.networks.resampled_network import ResampledNetwork
from monai_adversarial.networks.seed_ensemble import SeedEnsemble
from monai_adversarial.networks.sign_activation import SignActivationHead

__all__ = [
    "AllConvolutionalUNet",
    "BoundedReLU",
    "DualNormalization",
    "FeatureDenoising",
    "FeatureNoise",
    "PerturbationGenerator",
    "PointPromptedNetwork",
    "ResampledNetwork",
    "SeedEnsemble",
    "SignActivationHead",
    "collapse_dual_normalization",
    "convert_dual_normalization",
    "has_dual_normalization",
    "insert_feature_denoising",
    "insert_feature_noise",
    "normalization",
    "patch_discriminator",
    "replace_activations",
    "set_normalization",
    "train_by_coordinate_descent",
]
