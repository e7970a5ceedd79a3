# SPDX-License-Identifier: Apache-2.0
"""The attacks that a test campaign on X-ray classifiers runs side by side."""

from __future__ import annotations

from monai_adversarial.attacks.attack import Attack
from monai_adversarial.attacks.recipes.gradient_sign import BIM, FGSM, MIFGSM, PGD
from monai_adversarial.attacks.recipes.minimal_norm import CarliniWagner, DeepFool

__all__ = ["classifier_campaign"]


def classifier_campaign(
    epsilon: float, units: str = "network", steps: int = 10, minimal_steps: int = 90
) -> dict[str, Attack]:
    """Six published attacks on classifiers by name: four within a budget, two that look for the smallest L2 noise.

    >>> from monai_adversarial.attacks import classifier_campaign
    >>> attacks = classifier_campaign(4 / 255)
    >>> list(attacks)
    ['FGSM', 'BIM', 'MI-FGSM', 'PGD', 'DeepFool', 'C&W']
    >>> attacks["PGD"].steps
    10

    Args:
        epsilon: radius of the L-infinity budget of the first four, in ``units``.
        units: see :class:`~monai_adversarial.attacks.PGD`.
        steps: gradients of BIM, MI-FGSM and PGD.
        minimal_steps: gradients of Carlini and Wagner; DeepFool takes 50 of them at most.

    Source: Rahman et al. 2020, the survey's campaign on COVID-19 systems, which was not read: which attacks it ran is
    from memory, and one of them, JSMA, is left out.

    Survey entry: A19 (reconstruction), R13 (reconstruction).
    """
    return {
        "FGSM": FGSM(epsilon, units),
        "BIM": BIM(epsilon, units, steps=steps),
        "MI-FGSM": MIFGSM(epsilon, units, steps=steps),
        "PGD": PGD(epsilon, units, steps=steps),
        "DeepFool": DeepFool("l2", units, steps=min(minimal_steps, 50)),
        "C&W": CarliniWagner("l2", units, steps=minimal_steps),
    }
