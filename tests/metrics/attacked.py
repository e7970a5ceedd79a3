# SPDX-License-Identifier: Apache-2.0
"""Results of attacks that the tests of several metrics read, each made once."""

from __future__ import annotations

from functools import cache

from monai_adversarial.attacks import PGD, AttackResult, ElasticAttack
from monai_adversarial.data.example import example_case

__all__ = ["moved", "targeted", "untargeted"]


@cache
def untargeted() -> AttackResult:
    """PGD within 8 HU."""
    return PGD(8, units="HU", steps=2)(*example_case(16))


@cache
def targeted() -> AttackResult:
    """PGD towards the truth."""
    return PGD(8, units="HU", steps=3, targeted=True)(*example_case(16))


@cache
def moved() -> AttackResult:
    """A deformation, whose labels have moved."""
    return ElasticAttack(6.0, steps=1)(*example_case(16))
