# SPDX-License-Identifier: Apache-2.0
"""Attacks on classical classifiers of feature vectors: support vector machines, naive Bayes, tables of codes."""

from __future__ import annotations

from monai_adversarial.classical.adversary_aware import AdversaryAwareNaiveBayes
from monai_adversarial.classical.camouflage import Camouflage, minimum_cost_camouflage
from monai_adversarial.classical.discriminants import (
    LinearDiscriminant,
    MLPDiscriminant,
    RBFDiscriminant,
    discriminant_of,
)
from monai_adversarial.classical.evasion import EvasionAttack, Mimicry
from monai_adversarial.classical.naive_bayes import NaiveBayes
from monai_adversarial.classical.radiomics import FEATURES, organ_features
from monai_adversarial.classical.upcoding import CODES, synthetic_claims, upcode

__all__ = [
    "AdversaryAwareNaiveBayes",
    "CODES",
    "Camouflage",
    "EvasionAttack",
    "FEATURES",
    "LinearDiscriminant",
    "MLPDiscriminant",
    "Mimicry",
    "NaiveBayes",
    "RBFDiscriminant",
    "discriminant_of",
    "minimum_cost_camouflage",
    "organ_features",
    "synthetic_claims",
    "upcode",
]
