# SPDX-License-Identifier: Apache-2.0
"""How the attacker learns a direction."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

import torch

from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.calls import ShownAsCall

__all__ = ["Evaluation", "GradientEstimator", "InputView", "ObjectiveFunction", "WrappedEstimator"]


class InputView(Protocol):
    """How a transfer attack shows the perturbed image to the network: at another place, size or brightness.

    >>> from monai_adversarial.attacks import InputView
    >>> class Darker:
    ...     def image(self, image):
    ...         return image - 5
    ...     def logits(self, logits):
    ...         return logits
    >>> view: InputView = Darker()
    """

    def image(self, image: torch.Tensor) -> torch.Tensor:
        """What the network sees, (batch, channel, spatial...)."""

    def logits(self, logits: torch.Tensor) -> torch.Tensor:
        """The network's answer on the grid of the image, where it is compared with the label."""


class ObjectiveFunction(Protocol):
    """Parameters -> (objective (batch,), rank (batch,), logits or None where nobody needs them).

    >>> from monai_adversarial.attacks import PGD, ExactGradient
    >>> from monai_adversarial.attacks.gradients import ObjectiveFunction
    >>> from monai_adversarial.data.example import example_case
    >>> class Printed(ExactGradient):
    ...     def evaluate(self, function: ObjectiveFunction, parameters, scale=1.0):
    ...         values, ranks, logits = function(parameters)
    ...         print(values.shape, ranks.shape, parameters[0].shape)
    ...         return super().evaluate(function, parameters, scale)
    >>> result = PGD(16, "HU", steps=1, gradient=Printed())(*example_case(16))
    torch.Size([1]) torch.Size([1]) torch.Size([1, 1, 16, 16, 16])
    """

    def __call__(
        self, parameters: Parameters, view: InputView | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The objective, to be maximized.

        Args:
            parameters: of the perturbation.
            view: how the network is shown the image; None for the image as it is.
        """


@dataclass(frozen=True)
class Evaluation:
    """Value and direction at one point.

    >>> from monai_adversarial.attacks import AdditiveNoise, Attack, ExactGradient
    >>> from monai_adversarial.data.example import example_case
    >>> class Told(ExactGradient):
    ...     def evaluate(self, function, parameters, scale=1.0):
    ...         self.last = super().evaluate(function, parameters, scale)
    ...         return self.last
    >>> told = Told()
    >>> result = Attack(AdditiveNoise(8, units="HU"), gradient=told, steps=2)(*example_case(16))
    >>> told.last.gradients[0].shape, told.last.backwards
    (torch.Size([1, 1, 16, 16, 16]), 1)

    Args:
        values: objective per sample, (batch,), detached.
        ranks: what candidates are compared by, (batch,): the values themselves for most objectives.
        gradients: one tensor per parameter tensor.
        logits: what the network answered, detached; None where nobody needs it.
        forwards: forward passes per sample that it took.
        backwards: backward passes per sample that it took.
        prediction: the segmentation as it is scored, of a search without gradients; None otherwise.
        success: boolean (batch,), whether the attack succeeds at the point; None where nobody judges single points.
    """

    values: torch.Tensor
    ranks: torch.Tensor
    gradients: Parameters
    logits: torch.Tensor | None
    forwards: int
    backwards: int
    prediction: torch.Tensor | None = None
    success: torch.Tensor | None = None


class GradientEstimator(ShownAsCall, ABC):
    """Estimates the gradient of the objective with respect to the parameters of the perturbation.

    >>> from monai_adversarial.attacks import PGD, Evaluation, GradientEstimator
    >>> from monai_adversarial.data.example import example_case
    >>> class Blind(GradientEstimator):
    ...     def evaluate(self, function, parameters, scale=1.0):
    ...         values, ranks, logits = function(parameters)
    ...         guesses = tuple(2 * (part >= 0) - 1.0 for part in parameters)
    ...         return Evaluation(values.detach(), ranks.detach(), guesses, None, forwards=1, backwards=0)
    >>> PGD(16, "HU", steps=3, gradient=Blind())(*example_case(16)).backwards
    0

    Attributes:
        windowwise: objectives may be averaged over sliding windows; see ``WindowwiseGradient``.
        averages: a value is the mean over several draws, which one pass does not give.
        by_queries: nothing is differentiated. The function asks the model as it is deployed about the finished image,
            in the scoring precision; the first point that ``evaluate`` asks about is the one that it was given. In the
            last step only that is asked, and the run ends at the best of all points that were asked about, so that the
            outcome is one more pass.
        surrogates: models whose gradients are followed instead of the attacked one's.
        surrogate_average: ``"probability"``, ``"logit"`` or ``"loss"``: what of the surrogates is averaged.
    """

    _shows_defaults = True
    windowwise: bool = False
    averages: bool = False
    by_queries: bool = False
    surrogates: tuple[AttackedModel, ...] = ()
    surrogate_average: str = "probability"

    def begin(self, bound: BoundPerturbation, steps: int, stream: int = 0) -> GradientEstimator:
        """The estimator of one run on one batch: itself where it remembers nothing from step to step.

        Args:
            bound: the perturbation, tied to the batch.
            steps: of the run.
            stream: number of the random draw (restart, or iteration of a training).
        """
        return self

    def select(self, rows: torch.Tensor, bound: BoundPerturbation) -> None:
        """Go on with some of the samples."""

    def passes(self, steps: int) -> tuple[int, int]:
        """Forward and backward passes per sample of a run of ``steps``, as far as they are known before it."""
        return steps, 0 if self.by_queries else steps

    @abstractmethod
    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """Value and gradient per sample.

        Args:
            function: the objective of the attack, to be maximized.
            parameters: detached parameters.
            scale: constant by which the objective is multiplied before the backward pass and the gradient divided
                afterwards, against underflow in half precision.
        """

    def rank(self, function: ObjectiveFunction, parameters: Parameters) -> torch.Tensor:
        """What candidates are compared by at one point, (batch,); nothing is differentiated."""
        with torch.no_grad():
            return function(parameters)[1]


class WrappedEstimator(GradientEstimator):
    """An estimator around another one, which is all that is asked about but the gradient.

    >>> from dataclasses import replace
    >>> from monai_adversarial.attacks import PGD, ExactGradient, WrappedEstimator
    >>> from monai_adversarial.data.example import example_case
    >>> class LeftHalf(WrappedEstimator):
    ...     def __init__(self, estimator):
    ...         self.estimator = estimator
    ...     def evaluate(self, function, parameters, scale=1.0):
    ...         found = self.estimator.evaluate(function, parameters, scale)
    ...         found.gradients[0][:, :, 8:] = 0
    ...         return found
    >>> model, image, label = example_case(16)
    >>> attack = PGD(16, "HU", steps=3, random_start=False, gradient=LeftHalf(ExactGradient()))
    >>> changed = attack(model, image, label).adversarial != image
    >>> bool(changed[:, :, :8].any()), bool(changed[:, :, 8:].any())
    (True, False)

    Attributes:
        estimator: the inner one.
    """

    estimator: GradientEstimator

    @property
    def windowwise(self) -> bool:  # type: ignore[override]
        """As the inner estimator."""
        return self.estimator.windowwise

    @property
    def averages(self) -> bool:  # type: ignore[override]
        """As the inner estimator."""
        return self.estimator.averages

    @property
    def by_queries(self) -> bool:  # type: ignore[override]
        """As the inner estimator."""
        return self.estimator.by_queries

    @property
    def surrogates(self) -> tuple[AttackedModel, ...]:  # type: ignore[override]
        """As the inner estimator."""
        return self.estimator.surrogates

    @property
    def surrogate_average(self) -> str:  # type: ignore[override]
        """As the inner estimator."""
        return self.estimator.surrogate_average

    def begin(self, bound: BoundPerturbation, steps: int, stream: int = 0) -> GradientEstimator:
        """A copy around the inner estimator's run."""
        begun = copy.copy(self)
        begun.estimator = self.estimator.begin(bound, steps, stream)
        return begun

    def select(self, rows: torch.Tensor, bound: BoundPerturbation) -> None:
        """As the inner estimator."""
        self.estimator.select(rows, bound)

    def passes(self, steps: int) -> tuple[int, int]:
        """As the inner estimator."""
        return self.estimator.passes(steps)

    def rank(self, function: ObjectiveFunction, parameters: Parameters) -> torch.Tensor:
        """As the inner estimator: nothing is differentiated."""
        return self.estimator.rank(function, parameters)
