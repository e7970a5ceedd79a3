# SPDX-License-Identifier: Apache-2.0
"""Search strategies: how the attacker moves."""

from __future__ import annotations

from monai_adversarial.attacks.search.adam import CoordinateAdam, ProjectedAdam
from monai_adversarial.attacks.search.adaptive_multiplier import AdaptiveMultiplier
from monai_adversarial.attacks.search.alma import ALMAProxSearch
from monai_adversarial.attacks.search.apgd import AutoPGD
from monai_adversarial.attacks.search.base import Search, SearchRun, steepest_direction
from monai_adversarial.attacks.search.carlini_wagner import CarliniWagnerLinfSearch, CarliniWagnerSearch
from monai_adversarial.attacks.search.ddn import DDNSearch
from monai_adversarial.attacks.search.deepfool import DeepFoolSearch
from monai_adversarial.attacks.search.dense_adversary import DAGSearch
from monai_adversarial.attacks.search.differential_evolution import DifferentialEvolution
from monai_adversarial.attacks.search.extremes_first import ExtremesFirst
from monai_adversarial.attacks.search.fab import FABSearch
from monai_adversarial.attacks.search.fixed_point import FixedPoint
from monai_adversarial.attacks.search.fmn import FMNSearch
from monai_adversarial.attacks.search.hop_skip_jump import HopSkipJumpSearch
from monai_adversarial.attacks.search.lbfgs import LBFGSSearch
from monai_adversarial.attacks.search.linearized_flow import LinearizedFlowSearch
from monai_adversarial.attacks.search.minimal import MinimalSearch, MinimalSearchRun
from monai_adversarial.attacks.search.primal_dual import PrimalDualSearch
from monai_adversarial.attacks.search.random_search import RandomSearch
from monai_adversarial.attacks.search.saliency import SaliencySearch
from monai_adversarial.attacks.search.sigma_zero import SigmaZeroSearch
from monai_adversarial.attacks.search.simba import SimBA
from monai_adversarial.attacks.search.square import SquareSearch
from monai_adversarial.attacks.search.steepest_ascent import SelfAdaptiveMomentum, SteepestAscent

__all__ = [
    "LinearizedFlowSearch",
    "PrimalDualSearch",
    "AdaptiveMultiplier",
    "SelfAdaptiveMomentum",
    "HopSkipJumpSearch",
    "SimBA",
    "CoordinateAdam",
    "ALMAProxSearch",
    "CarliniWagnerLinfSearch",
    "CarliniWagnerSearch",
    "DAGSearch",
    "DDNSearch",
    "DeepFoolSearch",
    "DifferentialEvolution",
    "ExtremesFirst",
    "FABSearch",
    "FMNSearch",
    "LBFGSSearch",
    "MinimalSearch",
    "MinimalSearchRun",
    "SaliencySearch",
    "SigmaZeroSearch",
    "AutoPGD",
    "FixedPoint",
    "ProjectedAdam",
    "RandomSearch",
    "Search",
    "SearchRun",
    "SquareSearch",
    "SteepestAscent",
    "steepest_direction",
]
