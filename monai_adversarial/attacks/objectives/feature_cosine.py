# SPDX-License-Identifier: Apache-2.0
"""Another objective, led by the direction of features inside the network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from monai_adversarial.attacks.objectives.base import Objective, Progress
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.feature_distance import features_toward
from monai_adversarial.attacks.objectives.layer_features import LayerFeatures
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.attacks.objectives.wrapped import AroundObjective
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_positive

__all__ = ["FeatureCosine"]

#: of the published self-paced weights
MARGIN = 0.2


class FeatureCosine(AroundObjective):
    """Another objective, and features that turn away from the clean ones, toward those of another image if one is
    given.

    ``weight`` times the mean over layers of ``p * cos(f, clean) - q * cos(f, toward)`` is what the attacker makes small
    besides. The weights adapt: ``p`` is ``cos(f, clean)`` less 0.2, not below 0, and ``q`` is 1.2 less
    ``cos(f, toward)``, so that what is reached pulls no more. Candidates are compared by the other objective alone.
    The cosine has no gradient at the clean image; there the other objective leads.

    Args:
        objective: what is wanted, name or objective.
        layers: names of layers, as in ``network.named_modules()``; see
            :class:`~monai_adversarial.attacks.FeatureDistance` for what the network must be.
        weight: of the features, against the objective's value.
        toward: another image, (1 or batch, channel, spatial...) in the units of the attacked one; None for away only.

    Raises:
        ValueError: for no layers, names that the network does not have, a negative weight, another image of another
            shape, and a network that runs in windows.

    Example:
        >>> from monai_adversarial.attacks import PGD, FeatureCosine
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> result = PGD(8, "HU", steps=5, objective=FeatureCosine("dice", ["smoothing"]))(model, image, label)
        >>> bool(result.adversarial_dice < result.clean_dice)
        True

    Survey entry: X13 (reconstruction).

    Source: Sun et al., "MAFL-Attack: a targeted attack method against deep learning-based medical image segmentation
    models", Journal of Medical Imaging 12(4) 044501, 2025, of which the abstract was readable; the adaptive weights and
    the margin are those of Luo et al., "Frequency-driven imperceptible adversarial attack on semantic similarity", CVPR
    2022, from their public code. One cosine for a whole layer, and how candidates are compared, are ours.
    """

    def __init__(
        self, objective: str | Objective, layers: Sequence[str], weight: float = 1.0, toward: Any = None
    ) -> None:
        super().__init__(objective)
        self.features = LayerFeatures(layers, type(self).__name__)
        self.weight = check_positive("weight", weight, allow_zero=True)
        self.toward = None if toward is None else as_plain(as_tensor("toward", toward))

    @contextmanager
    def watching(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        """Both look inside."""
        with ExitStack() as stack:
            stack.enter_context(super().watching(networks))
            stack.enter_context(self.features.watching(networks))
            yield

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """The clean features and those of the other image, besides what the objective keeps."""
        numbers = {f"clean_{n}": f.detach().clone() for n, f in enumerate(self.features.of(clean.image))}
        if self.toward is not None:
            found = features_toward(self.toward, self.features, clean)
            numbers |= {f"toward_{n}": features for n, features in enumerate(found)}
        return super().prepare(target, clean).with_numbers(**numbers)

    def likeness(self, logits: torch.Tensor, target: Target) -> torch.Tensor:
        """What the attacker makes small, before the weight, (batch,)."""
        total = torch.zeros(logits.shape[0], dtype=logits.dtype, device=logits.device)
        for number, features in enumerate(self.features.of(logits)):
            flat = features.to(logits.dtype).flatten(1)
            cosine = F.cosine_similarity(flat, target.numbers[f"clean_{number}"].to(logits.dtype).flatten(1), dim=1)
            total = total + (cosine.detach() - MARGIN).clamp_min(0) * cosine
            if self.toward is not None:
                goal = target.numbers[f"toward_{number}"].to(logits.dtype).flatten(1)
                cosine = F.cosine_similarity(flat, goal, dim=1)
                total = total - (1 + MARGIN - cosine.detach()).clamp_min(0) * cosine
        return total / len(self.features.names)

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        return self.value_and_rank(logits, target, progress, targeted)[0]

    def value_and_rank(
        self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The objective's value with the features, and its own rank."""
        value, rank = self.objective.value_and_rank(logits, target, progress, targeted)
        cost = self.weight * self.likeness(logits, target)
        return value + cost if targeted else value - cost, rank

    def for_classifier(self) -> Objective:
        """The same around the objective that fits a classifier."""
        made = copy.copy(self)
        made.objective = self.objective.for_classifier()
        return made
