# SPDX-License-Identifier: Apache-2.0
"""Gradients of other networks than the attacked one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from monai_adversarial.attacks.gradients.base import Evaluation, GradientEstimator, ObjectiveFunction, WrappedEstimator
from monai_adversarial.attacks.gradients.exact import ExactGradient
from monai_adversarial.attacks.objectives import Target
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.validation import check_choice, check_instance

__all__ = ["AVERAGES", "SurrogateGradient", "averaged"]

AVERAGES = ("probability", "logit", "loss")


def averaged(logits: Sequence[torch.Tensor], average: str, target: Target) -> torch.Tensor:
    """One answer of several networks.

    Args:
        logits: of each network, (batch, class, spatial...).
        average: ``"probability"``: logits of the mean probability; ``"logit"``: the mean of the logits.
        target: says how logits become probabilities.
    """
    stacked = torch.stack(list(logits))
    if average == "logit" or len(logits) == 1:
        return stacked.mean(dim=0)
    if target.activation == "sigmoid":
        inside = torch.nn.functional.logsigmoid(stacked).logsumexp(dim=0)
        return inside - torch.nn.functional.logsigmoid(-stacked).logsumexp(dim=0)
    return stacked.log_softmax(dim=2).logsumexp(dim=0) - torch.tensor(float(len(logits))).log().to(stacked)


class SurrogateGradient(WrappedEstimator):
    """Follows other networks; the attacked one is asked about the clean image and the outcome alone.

    It makes a transfer attack of every recipe: perturbation, objective, search and budget stay what they are. During
    the search the attacked model is closed: a pass of it would raise. ``result.forwards`` counts its passes, two of
    them, and ``result.surrogate_forwards`` and ``surrogate_backwards`` those of the surrogates. What is kept of a
    search is what is best against the surrogates.

    Surrogates take what the attacked model takes. Images in HU go through each one's own window.

    Source: Liu, Chen, Liu, Song, "Delving into transferable adversarial examples and black-box attacks", ICLR 2017
    (section 5: the mean probability of an ensemble); means of logits and losses as in Dong et al. 2018 (MI-FGSM).

    Survey entry: A20 (adapted).

    Args:
        surrogates: an ``AttackedModel`` or a network, or several of them.
        average: of several: ``"probability"``, ``"logit"`` or ``"loss"``.
        estimator: computes the gradient, for example ``InputDiversity()``; None for ``ExactGradient``.

    Raises:
        ValueError: for no surrogate or an unknown average.

    Example:
        >>> from monai_adversarial.attacks import PGD, SurrogateGradient
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> surrogate, _, _ = example_case()
        >>> result = PGD(16, units="HU", steps=2, gradient=SurrogateGradient(surrogate))(model, image, label)
        >>> result.forwards, result.backwards, result.surrogate_backwards
        (2, 0, 2)
    """

    def __init__(
        self,
        surrogates: AttackedModel | Callable[..., Any] | Sequence[AttackedModel | Callable[..., Any]],
        average: str = "probability",
        estimator: GradientEstimator | None = None,
    ) -> None:
        given = tuple(surrogates) if isinstance(surrogates, (list, tuple)) else (surrogates,)
        if not given:
            raise ValueError("surrogates must hold at least one AttackedModel or network, got none.")
        self._surrogates = tuple(AttackedModel.wrap(one) for one in given)
        self._average = check_choice("average", average, AVERAGES)
        self.estimator: GradientEstimator = (
            ExactGradient()
            if estimator is None
            else check_instance("estimator", estimator, GradientEstimator, "InputDiversity()")
        )
        if self.estimator.by_queries:
            raise ValueError("estimator must differentiate the surrogates, got one that asks the attacked model.")

    @property
    def surrogates(self) -> tuple[AttackedModel, ...]:  # type: ignore[override]
        """The models that are followed."""
        return self._surrogates

    @property
    def surrogate_average(self) -> str:  # type: ignore[override]
        """What of them is averaged."""
        return self._average

    @property
    def windowwise(self) -> bool:  # type: ignore[override]
        """Answers of several networks are averaged as a whole."""
        return False

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """As the inner estimator: the function is that of the surrogates."""
        return self.estimator.evaluate(function, parameters, scale)
