# SPDX-License-Identifier: Apache-2.0
"""Networks and wrappers of networks."""

from __future__ import annotations

from monai_adversarial.networks.all_convolutional_unet import AllConvolutionalUNet
from monai_adversarial.networks.dual_normalization import (
    collapse_dual_normalization,
    convert_dual_normalization,
    has_dual_normalization,
    normalization,
    set_normalization,
)
from monai_adversarial.networks.resampled_network import ResampledNetwork

__all__ = [
    "AllConvolutionalUNet",
    "ResampledNetwork",
    "collapse_dual_normalization",
    "convert_dual_normalization",
    "has_dual_normalization",
    "normalization",
    "set_normalization",
]
