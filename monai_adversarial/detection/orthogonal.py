# SPDX-License-Identifier: Apache-2.0
"""Steps that fool the model without moving the detector's score."""

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
from monai_adversarial.attacks.perturbations.base import BoundPerturbation, Parameters, per_sample
from monai_adversarial.detection.base import Detector
from monai_adversarial.detection.joined import clean_with_affine
from monai_adversarial.utils.validation import check_instance, check_positive

__all__ = ["OrthogonalGradient"]


class OrthogonalGradient(WrappedEstimator):
    """The part of the attack's gradient that is orthogonal to the gradient of a detector's score.

    While the image is suspicious, a part of the same length that lowers the score is added; to first order neither
    undoes the other. Use it with the objective :class:`~monai_adversarial.detection.Evading`, whose term lies along the
    detector's gradient and so drops out of the direction, but says which point is the best.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.detection import Evading, FrequencyProfile, OrthogonalGradient
    >>> model, image, label = example_case(16)
    >>> detector = FrequencyProfile(model, bands=4).fit(example_case(16, seed)[1] for seed in range(1, 9))
    >>> _ = detector.calibrate((example_case(16, seed)[1] for seed in range(9, 13)), false_positive_rate=0.2)
    >>> parts = {"objective": Evading("dice_ce", detector), "gradient": OrthogonalGradient(detector)}
    >>> unaware, aware = (PGD(8, units="HU", steps=5, **one)(model, image, label) for one in ({}, parts))
    >>> bool(detector.score(aware.adversarial) < detector.score(unaware.adversarial))
    True

    Args:
        detector: calibrated.
        estimator: of the attack's gradient; None for ``WindowwiseGradient``.
        margin: how far below the threshold an image is no longer suspicious, in widths of the clean scores.

    Raises:
        TypeError: for something else than a detector or an estimator.
        ValueError: for a detector without a threshold, and for an estimator by queries, whose gradient is no vector
            that can be split.

    Source: Bryniarski et al., Evading Adversarial Example Detection Defenses with Orthogonal Projected Gradient
    Descent, ICLR 2022, take in each step the one gradient or the other, orthogonal to each other. That both are taken
    together while the image is suspicious is ours.
    """

    def __init__(self, detector: Detector, estimator: GradientEstimator | None = None, margin: float = 0.1) -> None:
        self.detector = check_instance("detector", detector, Detector, "GaussianDensity(model)")
        if detector.threshold is None:
            raise ValueError("detector must have a threshold to evade: call calibrate(clean cases) first.")
        self.estimator: GradientEstimator = (
            WindowwiseGradient()
            if estimator is None
            else check_instance("estimator", estimator, GradientEstimator, "ExactGradient()")
        )
        if self.estimator.by_queries:
            raise ValueError(f"estimator must differentiate, got {type(estimator).__name__}, which asks queries.")
        self.margin = check_positive("margin", margin, allow_zero=True)
        self._bound: BoundPerturbation | None = None

    def begin(self, bound: BoundPerturbation, steps: int, stream: int = 0) -> GradientEstimator:
        """A copy for one run on one batch."""
        begun = super().begin(bound, steps, stream)
        assert isinstance(begun, OrthogonalGradient)
        begun._bound = bound
        return begun

    def select(self, rows: torch.Tensor, bound: BoundPerturbation) -> None:
        """Go on with some of the samples."""
        super().select(rows, bound)
        self._bound = bound

    def evaluate(self, function: ObjectiveFunction, parameters: Parameters, scale: float = 1.0) -> Evaluation:
        """Value of the inner estimator, and the direction that is left."""
        found = self.estimator.evaluate(function, parameters, scale)
        excess, slopes = self._slopes(parameters)
        size = _product(slopes, slopes)
        along = _product(found.gradients, slopes) / size.clamp_min(torch.finfo(size.dtype).tiny)
        left = tuple(g - per_sample(along.to(g), g) * d for g, d in zip(found.gradients, slopes, strict=True))
        # of the same length as what is left of the attack's gradient, so that both move the image as far
        ratio = (_product(left, left) / size.clamp_min(torch.finfo(size.dtype).tiny)).sqrt()
        share = torch.where((excess + self.margin > 0) & (size > 0), ratio, 0.0)
        both = tuple(g - per_sample(share.to(g), g) * d for g, d in zip(left, slopes, strict=True))
        return replace(found, gradients=both)

    def _slopes(self, parameters: Parameters) -> tuple[torch.Tensor, Parameters]:
        """How suspicious each sample is, (batch,), and the derivative of that by the parameters."""
        bound = self._bound
        assert bound is not None
        with torch.enable_grad():
            leaves = tuple(parameter.detach().requires_grad_() for parameter in parameters)
            excess = self.detector.excess(bound.apply(bound.scene.image, leaves), clean_with_affine(bound))
            found = torch.autograd.grad(excess.sum(), leaves, allow_unused=True)
        slopes = tuple(torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True))
        return excess.detach(), tuple(slope.detach().nan_to_num(nan=0.0) for slope in slopes)


def _product(one: Parameters, other: Parameters) -> torch.Tensor:
    """Scalar product of each sample over all parameters, (batch,), float64."""
    parts = [(a.double() * b.double()).flatten(1).sum(dim=1) for a, b in zip(one, other, strict=True)]
    return torch.stack(parts).sum(dim=0)
