# SPDX-License-Identifier: Apache-2.0
"""Purifiers: denoising defenses as transforms, array and dictionary; each says how it is to be attacked."""

from __future__ import annotations

import inspect

from monai_adversarial.purifiers import (
    anisotropic_diffusion,
    autoencoder,
    bias_field_correction,
    bilateral,
    bit_depth,
    diffusion,
    frequency_refinement,
    gaussian,
    high_level_guided,
    jpeg,
    jpeg2000,
    masked_autoencoder,
    median,
    n4,
    non_local_means,
    patch_dictionary,
    resize_shift,
    total_variation,
    wavelet,
)
from monai_adversarial.purifiers.anisotropic_diffusion import *  # noqa: F403
from monai_adversarial.purifiers.autoencoder import *  # noqa: F403
from monai_adversarial.purifiers.base import Purifier, RandomPurifier
from monai_adversarial.purifiers.bias_field_correction import *  # noqa: F403
from monai_adversarial.purifiers.bilateral import *  # noqa: F403
from monai_adversarial.purifiers.bit_depth import *  # noqa: F403
from monai_adversarial.purifiers.context import ImageContext
from monai_adversarial.purifiers.dictionary import GeometricPurifierd, Purifierd, RandomPurifierd
from monai_adversarial.purifiers.diffusion import *  # noqa: F403
from monai_adversarial.purifiers.frequency_refinement import *  # noqa: F403
from monai_adversarial.purifiers.gaussian import *  # noqa: F403
from monai_adversarial.purifiers.high_level_guided import *  # noqa: F403
from monai_adversarial.purifiers.jpeg import *  # noqa: F403
from monai_adversarial.purifiers.jpeg2000 import *  # noqa: F403
from monai_adversarial.purifiers.learned import LearnedPurifier
from monai_adversarial.purifiers.masked_autoencoder import *  # noqa: F403
from monai_adversarial.purifiers.median import *  # noqa: F403
from monai_adversarial.purifiers.n4 import *  # noqa: F403
from monai_adversarial.purifiers.non_local_means import *  # noqa: F403
from monai_adversarial.purifiers.patch_dictionary import *  # noqa: F403
from monai_adversarial.purifiers.resize_shift import *  # noqa: F403
from monai_adversarial.purifiers.total_variation import *  # noqa: F403
from monai_adversarial.purifiers.wavelet import *  # noqa: F403

#: name -> array form, every purifier of the package
PURIFIERS: dict[str, type[Purifier]] = {
    name: item
    for name, item in list(globals().items())
    if isinstance(item, type) and issubclass(item, Purifier) and not inspect.isabstract(item)
}

__all__ = [
    "PURIFIERS",
    "GeometricPurifierd",
    "ImageContext",
    "LearnedPurifier",
    "Purifier",
    "Purifierd",
    "RandomPurifier",
    "RandomPurifierd",
]
__all__ += anisotropic_diffusion.__all__
__all__ += autoencoder.__all__
__all__ += bias_field_correction.__all__
__all__ += bilateral.__all__
__all__ += bit_depth.__all__
__all__ += diffusion.__all__
__all__ += frequency_refinement.__all__
__all__ += gaussian.__all__
__all__ += high_level_guided.__all__
__all__ += jpeg.__all__
__all__ += jpeg2000.__all__
__all__ += masked_autoencoder.__all__
__all__ += median.__all__
__all__ += n4.__all__
__all__ += non_local_means.__all__
__all__ += patch_dictionary.__all__
__all__ += resize_shift.__all__
__all__ += total_variation.__all__
__all__ += wavelet.__all__
