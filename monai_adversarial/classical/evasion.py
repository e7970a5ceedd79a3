# SPDX-License-Identifier: Apache-2.0
"""Evasion of classifiers at test time: down the discriminant, towards where harmless samples are."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.attacks import AdditiveNoise, AdditiveObjective, Attack, Margin, SteepestAscent
from monai_adversarial.attacks.objectives import Progress, Target
from monai_adversarial.attacks.objectives.base import Parts
from monai_adversarial.attacks.perturbations.base import BoundPerturbation
from monai_adversarial.utils.validation import check_choice, check_positive

__all__ = ["EvasionAttack", "Mimicry"]

KERNELS = ("laplacian", "gaussian")


class Mimicry(AdditiveObjective):
    """The margin, plus ``weight`` times the density of known samples of the wanted class at the changed vector.

    The discriminant alone may lead to where no sample ever was; the density keeps the attack where the wanted class is.

    >>> import torch
    >>> from monai_adversarial.classical import Mimicry
    >>> objective = Mimicry([[0.0, 0.0]], weight=10.0, bandwidth=1.0)
    >>> objective.density(torch.zeros(1, 1, 2)).item()
    1.0

    Args:
        samples: vectors of the wanted class, (sample, feature).
        weight: lambda of the paper, which tries 0, 10 and 500; 0 leaves the density out.
        bandwidth: h, in units of the features.
        kernel: ``"laplacian"``, ``exp(-|x - x_i|_1 / h)``, or ``"gaussian"``, ``exp(-|x - x_i|^2 / (2 h^2))``.

    Raises:
        ValueError: for samples of another shape, and numbers out of range.

    Source: Biggio et al., Evasion Attacks against Machine Learning at Test Time, ECML PKDD 2013. The objective is
    restated from memory of the paper; the choice of kernels is ours.
    """

    def __init__(self, samples: Any, weight: float = 10.0, bandwidth: float = 1.0, kernel: str = "laplacian") -> None:
        self.samples = torch.as_tensor(samples, dtype=torch.float64)
        if self.samples.ndim != 2 or not len(self.samples) or not bool(self.samples.isfinite().all()):
            raise ValueError(f"samples must be finite vectors (sample, feature), got {tuple(self.samples.shape)}.")
        self.weight = check_positive("weight", weight, allow_zero=True)
        self.bandwidth = check_positive("bandwidth", bandwidth)
        self.kernel = check_choice("kernel", kernel, KERNELS)
        self.margin = Margin(float("inf"))

    def parts(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool) -> Parts:
        return self.margin.parts(logits, target, progress, targeted)

    def parts_of_reference(self, target: Target, dtype: torch.dtype) -> Parts:
        return self.margin.parts_of_reference(target, dtype)

    def combine(self, parts: Parts, target: Target) -> tuple[torch.Tensor, torch.Tensor]:
        """The margin's."""
        return self.margin.combine(parts, target)

    def for_classifier(self) -> Mimicry:
        """Itself."""
        return self

    def density(self, vectors: torch.Tensor) -> torch.Tensor:
        """Mean of the kernel over the known samples, (batch,), of vectors (batch, 1, feature)."""
        away = vectors.flatten(1).unsqueeze(1) - self.samples.to(vectors)
        if self.kernel == "laplacian":
            return torch.exp(-away.abs().sum(dim=2) / self.bandwidth).mean(dim=1)
        return torch.exp(-away.square().sum(dim=2) / (2 * self.bandwidth**2)).mean(dim=1)

    def image_term(self, bound: BoundPerturbation, changed: torch.Tensor) -> torch.Tensor | None:
        """The weighted density."""
        return None if self.weight == 0 else self.weight * self.density(changed)


class EvasionAttack(Attack):
    """Gradient descent on the discriminant within a distance of the sample (Biggio et al. 2013).

    Vectors (batch, 1, feature) are one-dimensional images, so that the core of all attacks does the work.

    >>> import torch
    >>> from monai_adversarial.classical import EvasionAttack, LinearDiscriminant
    >>> from monai_adversarial.models import AttackedModel
    >>> model = AttackedModel(LinearDiscriminant([3.0, 4.0], 0.0), task="classification")
    >>> vector = torch.tensor([[[1.0, 1.0]]], dtype=torch.float64)
    >>> result = EvasionAttack(1.0)(model, vector, torch.tensor([1]))
    >>> [round(x, 4) for x in result.adversarial[0, 0].tolist()]  # minus (3, 4) / 5
    [0.4, 0.2]

    Args:
        max_distance: largest Euclidean distance from the sample, in units of the features.
        mimicry: density of the wanted class that is added; None for the discriminant alone.
        steps: gradient evaluations.
        relative_step: of a step, as a share of ``max_distance``.
        options: further arguments of :class:`~monai_adversarial.attacks.Attack`.

    Survey entry: A25 (adapted).

    Source: Biggio et al., Evasion Attacks against Machine Learning at Test Time, ECML PKDD 2013. The paper bounds an
    L1 distance in its demonstration on digits; here it is Euclidean, and steps fall linearly.
    """

    def __init__(
        self,
        max_distance: float,
        mimicry: Mimicry | None = None,
        steps: int = 50,
        relative_step: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(
            AdditiveNoise(max_distance, "l2"),
            Margin(float("inf")) if mimicry is None else mimicry,
            SteepestAscent(relative_step, schedule="linear"),
            steps=steps,
            **{"random_start": False, **options},
        )
