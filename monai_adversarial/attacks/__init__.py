# SPDX-License-Identifier: Apache-2.0
"""Attacks: four parts and one loop.

A ``Perturbation`` (how the image may change), an ``Objective`` (what the attacker wants), a ``GradientEstimator`` (how
it learns a direction) and a ``Search`` (how it moves) are joined by ``Attack``. Recipes are attacks of the literature.
"""

from __future__ import annotations

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.drawn_run import DrawnResult
from monai_adversarial.attacks.ensemble import AttackEnsemble, Member
from monai_adversarial.attacks.ensemble_run import EnsembleResult
from monai_adversarial.attacks.flags import Flag
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
    AnnealedDice,
    BalancedCrossEntropy,
    BalancedMaskedCrossEntropy,
    CosPGD,
    CrossEntropy,
    Dice,
    DiceCE,
    HardDice,
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
    RandomTransform,
)
from monai_adversarial.attacks.recipes import (
    APGD,
    BIM,
    FGSM,
    MIFGSM,
    NATURAL_VARIATIONS,
    PGD,
    SEA3D,
    AffineAttack,
    AutoAttack3D,
    BiasFieldAttack,
    ElasticAttack,
    ShrinkingRadius,
    SquareAttack,
    WorstOf,
    natural_variation,
    scan_rescan,
)
from monai_adversarial.attacks.result import AttackResult
from monai_adversarial.attacks.search import (
    AutoPGD,
    ProjectedAdam,
    RandomSearch,
    Search,
    SearchRun,
    SquareSearch,
    SteepestAscent,
)
from monai_adversarial.utils.intensity import IntensityMap

__all__ = [
    "AttackEnsemble",
    "AutoAttack3D",
    "EnsembleResult",
    "Flag",
    "Member",
    "SEA3D",
    "ShrinkingRadius",
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
    "AnnealedDice",
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
    "DrawnResult",
    "HardDice",
    "NATURAL_VARIATIONS",
    "RandomSearch",
    "RandomTransform",
    "SquareAttack",
    "SquareSearch",
    "WorstOf",
    "natural_variation",
    "scan_rescan",
]
