# SPDX-License-Identifier: Apache-2.0
"""Named attacks: a choice of four parts with the defaults of a paper."""

from __future__ import annotations

from monai_adversarial.attacks.recipes.geometric import AffineAttack, ElasticAttack
from monai_adversarial.attacks.recipes.gradient_sign import APGD, BIM, FGSM, MIFGSM, PGD
from monai_adversarial.attacks.recipes.smooth import BiasFieldAttack

__all__ = ["APGD", "BIM", "FGSM", "MIFGSM", "PGD", "AffineAttack", "BiasFieldAttack", "ElasticAttack"]
