# SPDX-License-Identifier: Apache-2.0
"""Adversarial transforms in MONAI's style: array and dictionary forms."""

from __future__ import annotations

from monai_adversarial import purifiers
from monai_adversarial.purifiers import *  # noqa: F403
from monai_adversarial.transforms.array import AdvAffine, AdvBiasField, AdvElastic, AdversarialTransform, AdvNoise
from monai_adversarial.transforms.dictionary import (
    AdvAffineD,
    AdvAffined,
    AdvAffineDict,
    AdvBiasFieldD,
    AdvBiasFieldd,
    AdvBiasFieldDict,
    AdvElasticD,
    AdvElasticd,
    AdvElasticDict,
    AdversarialTransformd,
    AdvNoiseD,
    AdvNoised,
    AdvNoiseDict,
)
from monai_adversarial.transforms.speckle import (
    AdvSpeckle,
    AdvSpeckleD,
    AdvSpeckled,
    AdvSpeckleDict,
    RandSpeckleNoise,
    RandSpeckleNoiseD,
    RandSpeckleNoised,
    RandSpeckleNoiseDict,
)
from monai_adversarial.transforms.worst_of import AdvWorstOf, AdvWorstOfD, AdvWorstOfd, AdvWorstOfDict

__all__ = [
    "AdvAffine",
    "AdvAffineD",
    "AdvAffineDict",
    "AdvAffined",
    "AdvBiasField",
    "AdvBiasFieldD",
    "AdvBiasFieldDict",
    "AdvBiasFieldd",
    "AdvElastic",
    "AdvElasticD",
    "AdvElasticDict",
    "AdvElasticd",
    "AdvNoise",
    "AdvNoiseD",
    "AdvNoiseDict",
    "AdvNoised",
    "AdvSpeckle",
    "AdvSpeckleD",
    "AdvSpeckleDict",
    "AdvSpeckled",
    "RandSpeckleNoise",
    "RandSpeckleNoiseD",
    "RandSpeckleNoiseDict",
    "RandSpeckleNoised",
    "AdvWorstOf",
    "AdvWorstOfD",
    "AdvWorstOfDict",
    "AdvWorstOfd",
    "AdversarialTransform",
    "AdversarialTransformd",
]
__all__ += purifiers.__all__
