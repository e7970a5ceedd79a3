# SPDX-License-Identifier: Apache-2.0
"""Named attacks: a choice of four parts with the defaults of a paper."""

from __future__ import annotations

from monai_adversarial.attacks.recipes.acquisition import (
    CTAcquisitionAttack,
    MRIAcquisitionAttack,
    UltrasoundReconstructionAttack,
)
from monai_adversarial.attacks.recipes.auto_attack import AutoAttack3D
from monai_adversarial.attacks.recipes.campaign import classifier_campaign
from monai_adversarial.attacks.recipes.frequency import VAFA, AdvDrop, SpectralAttack
from monai_adversarial.attacks.recipes.geometric import AffineAttack, ElasticAttack, StAdv
from monai_adversarial.attacks.recipes.geometric_intensity import GeometricIntensityAttack
from monai_adversarial.attacks.recipes.gradient_sign import APGD, BIM, FGSM, MIFGSM, PGD
from monai_adversarial.attacks.recipes.mafl import MAFL
from monai_adversarial.attacks.recipes.mask_attack import ASMA
from monai_adversarial.attacks.recipes.minimal_deformation import ADef
from monai_adversarial.attacks.recipes.minimal_norm import (
    DDN,
    FAB,
    FMN,
    PDPGD,
    ALMAProx,
    CarliniWagner,
    DeepFool,
    DenseAdversaryGeneration,
    LBFGSAttack,
)
from monai_adversarial.attacks.recipes.natural_variation import NATURAL_VARIATIONS, natural_variation, scan_rescan
from monai_adversarial.attacks.recipes.patch import PatchAttack
from monai_adversarial.attacks.recipes.prompt import PromptAttack
from monai_adversarial.attacks.recipes.queries import NES, RGF, ZOO, HopSkipJump, SAGMAttack, SimBADCT
from monai_adversarial.attacks.recipes.shrinking import SEA3D, ShrinkingRadius
from monai_adversarial.attacks.recipes.smooth import BiasFieldAttack
from monai_adversarial.attacks.recipes.sparse import JSMA, OnePixel, SigmaZero
from monai_adversarial.attacks.recipes.speckle import SpeckleAttack
from monai_adversarial.attacks.recipes.square import SquareAttack
from monai_adversarial.attacks.recipes.texture import TextureAttack
from monai_adversarial.attacks.recipes.transfer import EnsembleTransfer
from monai_adversarial.attacks.recipes.universal import UniversalNoise, UniversalPerturbation
from monai_adversarial.attacks.recipes.worst_of import WorstOf

__all__ = [
    "classifier_campaign",
    "ADef",
    "PDPGD",
    "StAdv",
    "PatchAttack",
    "CTAcquisitionAttack",
    "MRIAcquisitionAttack",
    "UltrasoundReconstructionAttack",
    "EnsembleTransfer",
    "HopSkipJump",
    "NES",
    "RGF",
    "SAGMAttack",
    "SimBADCT",
    "ZOO",
    "DDN",
    "FAB",
    "FMN",
    "ALMAProx",
    "CarliniWagner",
    "DeepFool",
    "DenseAdversaryGeneration",
    "LBFGSAttack",
    "JSMA",
    "OnePixel",
    "SigmaZero",
    "APGD",
    "UniversalNoise",
    "UniversalPerturbation",
    "ASMA",
    "BIM",
    "FGSM",
    "MAFL",
    "MIFGSM",
    "NATURAL_VARIATIONS",
    "PGD",
    "PromptAttack",
    "VAFA",
    "AdvDrop",
    "AffineAttack",
    "AutoAttack3D",
    "BiasFieldAttack",
    "ElasticAttack",
    "GeometricIntensityAttack",
    "SEA3D",
    "ShrinkingRadius",
    "SpeckleAttack",
    "SpectralAttack",
    "SquareAttack",
    "TextureAttack",
    "WorstOf",
    "natural_variation",
    "scan_rescan",
]
