# SPDX-License-Identifier: Apache-2.0
"""Losses per sample that an attack maximizes."""

from __future__ import annotations

from monai_adversarial.attacks.objectives.annealed_dice import AnnealedDice
from monai_adversarial.attacks.objectives.augmented_lagrangian import AugmentedLagrangian
from monai_adversarial.attacks.objectives.base import AdditiveObjective, Objective, Progress, VoxelwiseObjective
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.compare import compare
from monai_adversarial.attacks.objectives.comparison import Comparison
from monai_adversarial.attacks.objectives.cospgd import CosPGD
from monai_adversarial.attacks.objectives.cross_entropy import BalancedCrossEntropy, CrossEntropy
from monai_adversarial.attacks.objectives.dice import Dice
from monai_adversarial.attacks.objectives.dice_ce import DiceCE
from monai_adversarial.attacks.objectives.dlr import DLR
from monai_adversarial.attacks.objectives.easiest_margin import EasiestMargin
from monai_adversarial.attacks.objectives.feature_cosine import FeatureCosine
from monai_adversarial.attacks.objectives.feature_distance import FeatureDistance
from monai_adversarial.attacks.objectives.flow_penalized import FlowPenalized
from monai_adversarial.attacks.objectives.hard_dice import HardDice
from monai_adversarial.attacks.objectives.jensen_shannon import JensenShannon
from monai_adversarial.attacks.objectives.landmark_heatmaps import LandmarkHeatmaps
from monai_adversarial.attacks.objectives.low_frequency_penalized import LowFrequencyPenalized
from monai_adversarial.attacks.objectives.margin import Margin
from monai_adversarial.attacks.objectives.masked_cross_entropy import BalancedMaskedCrossEntropy, MaskedCrossEntropy
from monai_adversarial.attacks.objectives.organ_volumes import OrganVolume, ThresholdCrossing
from monai_adversarial.attacks.objectives.organ_voxels import BoundaryShift, CreateOrgan, EraseOrgan
from monai_adversarial.attacks.objectives.registry import OBJECTIVES, get_objective
from monai_adversarial.attacks.objectives.segpgd import SegPGD
from monai_adversarial.attacks.objectives.ssim_penalized import SSIMPenalized
from monai_adversarial.attacks.objectives.surface_dice import SurfaceDice
from monai_adversarial.attacks.objectives.target import ACTIVATIONS, Target
from monai_adversarial.attacks.objectives.unmatched_logits import UnmatchedLogits

__all__ = [
    "FlowPenalized",
    "AdditiveObjective",
    "ACTIVATIONS",
    "AnnealedDice",
    "AugmentedLagrangian",
    "BalancedCrossEntropy",
    "BalancedMaskedCrossEntropy",
    "BoundaryShift",
    "CleanBatch",
    "CreateOrgan",
    "EraseOrgan",
    "FeatureCosine",
    "FeatureDistance",
    "OrganVolume",
    "ThresholdCrossing",
    "Comparison",
    "CosPGD",
    "DLR",
    "CrossEntropy",
    "Dice",
    "DiceCE",
    "EasiestMargin",
    "HardDice",
    "JensenShannon",
    "LandmarkHeatmaps",
    "LowFrequencyPenalized",
    "Margin",
    "MaskedCrossEntropy",
    "Objective",
    "OBJECTIVES",
    "Progress",
    "SSIMPenalized",
    "SegPGD",
    "SurfaceDice",
    "Target",
    "UnmatchedLogits",
    "VoxelwiseObjective",
    "compare",
    "get_objective",
]
