# SPDX-License-Identifier: Apache-2.0
"""The attacker who does not know the detector and hides among the features of clean images."""

from __future__ import annotations

import torch

from monai_adversarial.attacks.objectives.base import Objective
from monai_adversarial.detection.density import FeatureDetector
from monai_adversarial.detection.joined import JoinedObjective
from monai_adversarial.utils.validation import check_instance, check_positive

__all__ = ["HidingFeatures"]


class HidingFeatures(JoinedObjective):
    """``objective - weight * distance / number of features``: fool the model with features like those of clean images.

    The distance is the score of a density of features in every watched layer, which the attacker has fitted itself to
    clean images. No threshold is known, so that it pulls wherever the image is. Evading one density this way gets past
    many detectors that look at features of the same network.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import HidingFeatures, MahalanobisDistance
    >>> model, image, label = example_case(16)
    >>> density = MahalanobisDistance(model).fit(example_case(16, seed)[1] for seed in range(1, 9))
    >>> unaware = PGD(8, units="HU", steps=5)(model, image, label)
    >>> hiding = PGD(8, units="HU", steps=5, objective=HidingFeatures("dice_ce", density, weight=3.0))
    >>> bool(density.score(hiding(model, image, label).adversarial) < density.score(unaware.adversarial))
    True

    Args:
        objective: name, or an objective of sums over voxels, as all built-in ones are.
        density: fitted to clean images of the attacked model; not calibrated. ``MahalanobisDistance`` works layer by
            layer.
        weight: of the distance, above 0.

    Raises:
        TypeError: for something else than a density of features, and for an objective that is no sum over voxels.
        ValueError: for a density that is not fitted, and for a weight that is not above 0.

    Source: Yao et al., A Hierarchical Feature Constraint to Camouflage Medical Adversarial Attacks, MICCAI 2021: the
    density of each layer under a mixture of Gaussians for the class that a classifier is to say. A segmentation has all
    classes in one image, so that whole clean images take the place of the class.

    Survey entry: X17 (adapted).
    """

    def __init__(self, objective: str | Objective, density: FeatureDetector, weight: float = 1.0) -> None:
        super().__init__(objective, check_instance("density", density, FeatureDetector, "MahalanobisDistance(model)"))
        if not density.state:
            raise ValueError("density must have seen clean images: call fit(clean cases) first.")
        self.density = density
        self.weight = check_positive("weight", weight)

    def _around(self, objective: Objective) -> Objective:
        return HidingFeatures(objective, self.density, self.weight)

    def _term(self, changed: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        found = self.density._suspicion(changed, like, smooth=True)
        return -self.weight * found / len(self.density.state["kept"])
