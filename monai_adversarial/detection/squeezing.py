# SPDX-License-Identifier: Apache-2.0
"""Feature squeezing: a clean image is segmented the same before and after it is purified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from monai_adversarial.detection.answers import (
    answer_of_image,
    disagreement,
    predictor_of,
    probabilities_of,
    soft_disagreement,
)
from monai_adversarial.detection.base import Detector
from monai_adversarial.models.answer import Answer
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.purifiers.base import Purifier
from monai_adversarial.purifiers.checks import check_units
from monai_adversarial.utils.backward_pass import backward_pass
from monai_adversarial.utils.scene import case_seeds
from monai_adversarial.utils.validation import check_choice

__all__ = ["REDUCTIONS", "FeatureSqueezing", "PredictionComparison"]

REDUCTIONS = ("max", "mean")


class PredictionComparison(Detector):
    """A detector by how far the answers to variants of an image are from the answer to the image itself.

    The score is 1 - Dice of the segmentations; what is differentiated is the same with the squared Dice of
    probabilities. Of a classifier both are the L1 distance of probabilities.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import FeatureSqueezing, PredictionComparison
    >>> from monai_adversarial.purifiers import MedianDenoise
    >>> model, image, label = example_case(16)
    >>> detector = FeatureSqueezing(model, [MedianDenoise()])
    >>> isinstance(detector, PredictionComparison), bool(0 <= detector.score(image) <= 1)
    (True, True)

    Args:
        model: an ``AttackedModel``, or a bare network.
        reduction: ``"max"`` or ``"mean"`` over foreground classes.
    """

    needs_fit = False
    has_stand_in = True

    def __init__(self, model: Any, reduction: str = "max") -> None:
        super().__init__(model)
        self.reduction = check_choice("reduction", reduction, REDUCTIONS)

    def _answer(
        self, image: torch.Tensor, like: torch.Tensor, smooth: bool, by: AttackedModel | None = None
    ) -> Answer | torch.Tensor:
        """The model's answer to an image, or that of another model: a segmentation, or probabilities (batch, class,
        spatial...) of the stand-in and of classifiers."""
        predictor_of(self.model, image, like)  # learns what the answers are
        if smooth or self.model.classifies:
            return probabilities_of(by or self.model, image, like)
        return answer_of_image(by or self.model, image, like)

    def _apart(self, one: Answer | torch.Tensor, other: Answer | torch.Tensor, undo: Any = None) -> torch.Tensor:
        """Distance between two answers, (batch,); ``undo`` brings the second one to the grid of the first."""
        undo = undo or (lambda answer: answer)
        if isinstance(one, Answer) and isinstance(other, Answer):
            return disagreement(one, replace(other, prediction=undo(other.prediction)), self.reduction)
        assert isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        if self.model.classifies:
            return (one - other).abs().flatten(1).sum(dim=1)
        return soft_disagreement(one, undo(other), self.model.activation_of(one.shape[1]), self.reduction)


class FeatureSqueezing(PredictionComparison):
    """Largest disagreement between the answers to an image and to what purifiers make of it.

    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import FeatureSqueezing
    >>> from monai_adversarial.transforms import BitDepthReduction, GaussianDenoise
    >>> model, image, label = example_case(16)
    >>> one, both = [BitDepthReduction(4)], [BitDepthReduction(4), GaussianDenoise()]
    >>> bool(FeatureSqueezing(model, both).score(image) >= FeatureSqueezing(model, one).score(image))
    True

    Args:
        model: an ``AttackedModel``, or a bare network.
        purifiers: in their array form; they see the image in its own units, so that one in network values needs
            ``intensity=``.
        reduction: ``"max"`` or ``"mean"`` over foreground classes.

    Raises:
        TypeError: for something else than purifiers.
        ValueError: for none of them, and for one that moves anatomy.

    Source: Xu, Evans and Qi, Feature Squeezing, NDSS 2018: the largest L1 distance of a classifier's probabilities
    over the squeezers. 1 - Dice of segmentations is ours.

    Survey entry: T05 (adapted).
    """

    def __init__(self, model: Any, purifiers: Sequence[Purifier], reduction: str = "max") -> None:
        super().__init__(model, reduction)
        given = (purifiers,) if isinstance(purifiers, Purifier) else tuple(purifiers)
        wrong = [type(one).__name__ for one in given if not isinstance(one, Purifier)]
        if wrong:
            raise TypeError(f"purifiers must be purifiers in their array form, got {wrong[0]}.")
        if not given or any(one.geometric for one in given):
            raise ValueError("purifiers must be at least one that moves no anatomy.")
        self.purifiers = given

    def _suspicion(self, image: torch.Tensor, like: torch.Tensor, smooth: bool) -> torch.Tensor:
        found: list[torch.Tensor] = []
        with backward_pass("declared"):  # in force, so that no attack is weak unnoticed
            seen = self._answer(image, like, smooth)
            for number, purifier in enumerate(self.purifiers):
                check_units(purifier, image.detach())
                seeds = case_seeds(image, number) if purifier.random else ()
                squeezed = purifier.apply(image, purifier.context_of(like, seeds))
                found.append(self._apart(seen, self._answer(squeezed, like, smooth)))
        return torch.stack(found).amax(dim=0)
