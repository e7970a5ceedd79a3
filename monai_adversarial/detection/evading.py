# SPDX-License-Identifier: Apache-2.0
"""The attacker who knows the detector: its score is a term of what the attacker wants."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import Objective
from monai_adversarial.detection.base import Detector
from monai_adversarial.detection.joined import JoinedObjective
from monai_adversarial.utils.validation import check_instance, check_positive

__all__ = ["Evading"]


class Evading(JoinedObjective):
    """``objective - weight * log(1 + max(0, suspicion))``: fool the model and stay below the detector's threshold.

    The suspicion is how far the score is above the threshold, in widths of the clean scores, plus ``margin``. Below
    that the term is zero, so that it acts as a constraint; the logarithm keeps a huge score from drowning the
    objective. The gradient is exact through features, windows and densities, and goes through purifiers as they
    declare. It works with every perturbation, search and model; the detector's own passes through its network are not
    in the result's counts.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import Evading, FrequencyProfile
    >>> model, image, label = example_case(16)
    >>> detector = FrequencyProfile(model, bands=4).fit(example_case(16, seed)[1] for seed in range(1, 9))
    >>> _ = detector.calibrate((example_case(16, seed)[1] for seed in range(9, 13)), false_positive_rate=0.2)
    >>> attack = PGD(8, units="HU", steps=5, objective=Evading("dice_ce", detector))
    >>> unaware = PGD(8, units="HU", steps=5)(model, image, label)
    >>> bool(detector.score(attack(model, image, label).adversarial) < detector.score(unaware.adversarial))
    True

    Args:
        objective: name, or an objective of sums over voxels, as all built-in ones are.
        detector: calibrated.
        weight: of the detector's term, above 0.
        margin: how far below the threshold the attacker wants to be, in widths of the clean scores.

    Raises:
        TypeError: for something else than a detector, and for an objective that is no sum over voxels.
        ValueError: for a detector without a threshold, and for numbers out of range.

    Source: Carlini and Wagner, Adversarial Examples Are Not Easily Detected, 2017, demand of an evaluation that the
    attacker's loss knows the detector. The threshold and the logarithm are ours; see
    :class:`~monai_adversarial.detection.HidingFeatures` for an attacker who does not know which detector there is.
    """

    def __init__(
        self, objective: str | Objective, detector: Detector, weight: float = 1.0, margin: float = 0.1
    ) -> None:
        super().__init__(objective, check_instance("detector", detector, Detector, "GaussianDensity(model)"))
        if self.detector.threshold is None:
            raise ValueError("detector must have a threshold to evade: call calibrate(clean cases) first.")
        self.weight = check_positive("weight", weight)
        self.margin = check_positive("margin", margin, allow_zero=True)

    def _around(self, objective: Objective) -> Objective:
        return Evading(objective, self.detector, self.weight, self.margin)

    def _term(self, changed: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        excess = self.detector.excess(changed, like)
        return -self.weight * (excess + self.margin).clamp_min(0).log1p()
