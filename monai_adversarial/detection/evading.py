# SPDX-License-Identifier: Apache-2.0
"""The attacker who knows the detector: its score is a term of what the attacker wants."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from monai.data import MetaTensor
from torch import nn

from monai_adversarial.attacks.objectives.base import AdditiveObjective, Objective, Parts, Progress
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.registry import get_objective
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.attacks.perturbations.base import BoundPerturbation
from monai_adversarial.detection.base import Detector
from monai_adversarial.utils.modules import frozen
from monai_adversarial.utils.validation import check_instance, check_positive

__all__ = ["Evading"]


class Evading(AdditiveObjective):
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

    Source: Yao et al., A Hierarchical Feature Constraint to Camouflage Medical Adversarial Attacks, MICCAI
    2021, adds the density of features in every layer to the attacker's loss. Any detector in
    that place, the threshold and the logarithm are ours, as Carlini and Wagner, Adversarial Examples Are Not Easily
    Detected, 2017, demand of an evaluation.

    Survey entry: X17 (adapted).
    """

    def __init__(
        self, objective: str | Objective, detector: Detector, weight: float = 1.0, margin: float = 0.1
    ) -> None:
        inner = get_objective(objective)
        if not isinstance(inner, AdditiveObjective):
            raise TypeError(f"objective must be a sum over voxels (AdditiveObjective), got {type(inner).__name__}.")
        self.objective = inner
        self.detector = check_instance("detector", detector, Detector, "GaussianDensity(model)")
        if self.detector.threshold is None:
            raise ValueError("detector must have a threshold to evade: call calibrate(clean cases) first.")
        self.weight = check_positive("weight", weight)
        self.margin = check_positive("margin", margin, allow_zero=True)
        self.comparable, self.follows_progress = inner.comparable, inner.follows_progress
        self.directed, self.organs, self.success_rule = inner.directed, inner.organs, inner.success_rule
        self.allows_moving_anatomy = inner.allows_moving_anatomy

    @contextmanager
    def watching(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        """The detector's networks are frozen with those that are attacked."""
        others = [one for one in self.detector.networks if all(one is not network for network in networks)]
        with ExitStack() as stack:
            stack.enter_context(self.objective.watching(networks))
            if others:
                stack.enter_context(frozen(others))
            yield

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        return self.objective.parts(logits, target, progress, targeted)

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        return self.objective.parts_of_reference(target, dtype)

    def support(self, target: Target) -> torch.Tensor | None:
        return self.objective.support(target)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        return self.objective.combine(parts, target)

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        return self.objective.prepare(target, clean)

    def succeeded(self, prediction: torch.Tensor, target: Target) -> torch.Tensor | None:
        return self.objective.succeeded(prediction, target)

    def for_classifier(self) -> Objective:
        """The same of what takes its objective's place."""
        inner = self.objective.for_classifier()
        return self if inner is self.objective else Evading(inner, self.detector, self.weight, self.margin)

    def image_term(self, bound: BoundPerturbation, changed: torch.Tensor) -> torch.Tensor | None:
        """The detector's term, negative, with what the inner objective wants of the image."""
        clean, affine = bound.scene.image, bound.scene.affine
        if affine is None:
            like: torch.Tensor = clean
        else:
            like = MetaTensor(clean, affine=affine[0] if len(clean) == 1 else affine)
        excess = self.detector.excess(changed, like)
        term = -self.weight * (excess + self.margin).clamp_min(0).log1p().to(changed.dtype)
        inner = self.objective.image_term(bound, changed)
        return term if inner is None else term + inner
