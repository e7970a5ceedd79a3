# SPDX-License-Identifier: Apache-2.0
"""Search strategies: how the attacker moves."""

from __future__ import annotations

from monai_adversarial.attacks.search.adam import CoordinateAdam, ProjectedAdam
from monai_adversarial.attacks.search.adaptive_multiplier import AdaptiveMultiplier
from monai_adversarial.attacks.search.apgd import AutoPGD
from monai_adversarial.attacks.search.base import Search, SearchRun, steepest_direction
from monai_adversarial.attacks.search.fixed_point import FixedPoint
from monai_adversarial.attacks.search.hop_skip_jump import HopSkipJumpSearch
from monai_adversarial.attacks.search.random_search import RandomSearch
from monai_adversarial.attacks.search.simba import SimBA
from monai_adversarial.attacks.search.square import SquareSearch
from monai_adversarial.attacks.search.steepest_ascent import SelfAdaptiveMomentum, SteepestAscent

__all__ = [
    "AdaptiveMultiplier",
    "SelfAdaptiveMomentum",
    "HopSkipJumpSearch",
    "SimBA",
    "CoordinateAdam",
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
