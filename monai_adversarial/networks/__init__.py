# SPDX-License-Identifier: Apache-2.0
"""Networks and wrappers of networks."""

from __future__ import annotations

from monai_adversarial.networks.all_convolutional_unet import AllConvolutionalUNet
from monai_adversarial.networks.resampled_network import ResampledNetwork

__all__ = ["AllConvolutionalUNet", "ResampledNetwork"]
