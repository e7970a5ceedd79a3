# SPDX-License-Identifier: Apache-2.0
"""Attacks: four parts and one loop.

A ``Perturbation`` (how the image may change), an ``Objective`` (what the attacker wants), a ``GradientEstimator`` (how
it learns a direction) and a ``Search`` (how it moves) are joined by ``Attack``. Recipes are attacks of the literature.
"""

from __future__ import annotations

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.gradients import (
    BackwardPassSubstitute,
    Evaluation,
    ExactGradient,
    ExpectationOverTransformation,
    GradientEstimator,
    WindowwiseGradient,
)
from monai_adversarial.attacks.objectives import (
    AdditiveObjective,
    BalancedCrossEntropy,
    BalancedMaskedCrossEntropy,
    CosPGD,
    CrossEntropy,
    Dice,
    DiceCE,
    JensenShannon,
    Margin,
    MaskedCrossEntropy,
    Objective,
    SegPGD,
    VoxelwiseObjective,
    get_objective,
)
from monai_adversarial.attacks.perturbations import (
    AdditiveNoise,
    AffineTransform,
    BiasField,
    BoundPerturbation,
    BudgetError,
    Chain,
    ElasticDeformation,
    Measurement,
    Perturbation,
)
from monai_adversarial.attacks.recipes import APGD, BIM, FGSM, MIFGSM, PGD, AffineAttack, BiasFieldAttack, ElasticAttack
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.search import AutoPGD, ProjectedAdam, Search, SearchRun, SteepestAscent
from monai_adversarial.utils.intensity import IntensityMap

__all__ = [
    "WindowwiseGradient",
    "AdditiveObjective",
    "APGD",
    "BIM",
    "FGSM",
    "MIFGSM",
    "PGD",
    "AdditiveNoise",
    "AffineAttack",
    "BiasFieldAttack",
    "ElasticAttack",
    "AffineTransform",
    "Attack",
    "AttackResult",
    "AutoPGD",
    "BackwardPassSubstitute",
    "BalancedCrossEntropy",
    "BalancedMaskedCrossEntropy",
    "BiasField",
    "BoundPerturbation",
    "BudgetError",
    "Chain",
    "CosPGD",
    "CrossEntropy",
    "Dice",
    "DiceCE",
    "ElasticDeformation",
    "Evaluation",
    "ExactGradient",
    "ExpectationOverTransformation",
    "GradientEstimator",
    "IntensityMap",
    "JensenShannon",
    "Margin",
    "MaskedCrossEntropy",
    "Measurement",
    "Objective",
    "Perturbation",
    "ProjectedAdam",
    "Search",
    "SearchRun",
    "SegPGD",
    "SteepestAscent",
    "VoxelwiseObjective",
    "get_objective",
]
