# SPDX-License-Identifier: Apache-2.0
"""Expectation over transformation (EOT)."""

from __future__ import annotations

from dataclasses import replace

import torch

from monai_adversarial.attacks.gradients.base import (
    Evaluation,
    GradientEstimator,
    ObjectiveFunction,
    WrappedEstimator,
)
from monai_adversarial.attacks.gradients.exact import WindowwiseGradient
from monai_adversarial.attacks.perturbations.base import Parameters
from monai_adversarial.utils.draws import random_draw
from monai_adversarial.utils.validation import check_count, check_instance

__all__ = ["ExpectationOverTransformation"]


class ExpectationOverTransformation(WrappedEstimator):
    """Averages values and gradients over draws of a random defense.

    Each draw is a forward and a backward pass of its own, one after the other, in the memory of one.

    >>> from monai_adversarial.attacks import PGD, ExpectationOverTransformation
    >>> from monai_adversarial.data.example import example_case
    >>> attack = PGD(16, "HU", steps=3, gradient=ExpectationOverTransformation(samples=4))
    >>> attack(*example_case(16)).backwards
    12

    Source: Athalye, Engstrom, Ilyas, Kwok, "Synthesizing robust adversarial examples", ICML 2018.

    Args:
        samples: draws per gradient.
        estimator: computes the gradient of one draw, for example ``BackwardPassSubstitute()``; None for
            ``WindowwiseGradient``.
    """

    def __init__(self, samples: int = 20, estimator: GradientEstimator | None = None) -> None:
        self.samples = check_count("samples", samples)
        self.estimator: GradientEstimator = (
            WindowwiseGradient()
            if estimator is None
            else check_instance("estimator", estimator, GradientEstimator, "BackwardPassSubstitute()")
        )

    averages = True  # type: ignore[assignment]

    def passes(self, steps: int) -> tuple[int, int]:
        """Those of each draw."""
        forwards, backwards = self.estimator.passes(steps)
        return forwards * self.samples, backwards * self.samples

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """Mean over the draws; the logits are the mean of the logits."""
        total = self._draw(0, function, parameters, scale)
        for sample in range(1, self.samples):
            found = self._draw(sample, function, parameters, scale)
            total = Evaluation(
                total.values + found.values,
                total.ranks + found.ranks,
                tuple(a + b for a, b in zip(total.gradients, found.gradients, strict=True)),
                None if total.logits is None or found.logits is None else total.logits + found.logits,
                total.forwards + found.forwards,
                total.backwards + found.backwards,
            )
        share = 1.0 / self.samples
        return replace(
            total,
            values=total.values * share,
            ranks=total.ranks * share,
            gradients=tuple(gradient * share for gradient in total.gradients),
            logits=None if total.logits is None else total.logits * share,
        )

    def _draw(self, sample: int, function: ObjectiveFunction, parameters: Parameters, scale: float) -> Evaluation:
        with random_draw(sample):
            found = self.estimator.evaluate(function, parameters, scale)
        return replace(found, ranks=found.ranks.detach())

    def rank(self, function: ObjectiveFunction, parameters: Parameters) -> torch.Tensor:
        """Mean rank over the draws."""
        ranks = []
        for sample in range(self.samples):
            with random_draw(sample):
                ranks.append(self.estimator.rank(function, parameters))
        return torch.stack(ranks).mean(dim=0)
