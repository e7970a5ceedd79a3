# SPDX-License-Identifier: Apache-2.0
"""Distance between features inside a network: away from the clean ones, or toward those of another image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from monai_adversarial.attacks.objectives.base import Objective, Progress
from monai_adversarial.attacks.objectives.clean_batch import CleanBatch
from monai_adversarial.attacks.objectives.layer_features import LayerFeatures
from monai_adversarial.attacks.objectives.target import Target
from monai_adversarial.utils.arrays import as_tensor
from monai_adversarial.utils.plain import as_plain

__all__ = ["FeatureDistance", "features_toward"]


class FeatureDistance(Objective):
    """Mean over layers of the squared distance of features, as a share of the squared length of the clean ones.

    Without ``toward`` the features move away from the clean ones. The distance has no gradient at the clean image:
    start at random. With ``toward`` they move to those of another image, and the value is the share of the way that
    is gone, 1 at its end. The segmentation is not asked: what becomes of it is scored, by Dice with the label. Features
    are those of one pass through the network, so that it must see the whole image at once.

    Args:
        layers: names of layers, as in ``network.named_modules()``.
        toward: another image, (1 or batch, channel, spatial...) in the units of the attacked one; None for away.

    Raises:
        ValueError: for no layers, names that the network does not have, a network that runs in windows, another image
            of another shape or with the same features, and layers whose output depends on no gradient.

    Example:
        >>> from monai_adversarial.attacks import PGD, FeatureDistance
        >>> from monai_adversarial.data.example import example_case
        >>> model, image, label = example_case()
        >>> result = PGD(8, units="HU", objective=FeatureDistance(["smoothing"]))(model, image, label)
        >>> bool(result.adversarial_dice < result.clean_dice)
        True

    Source: Sabour, Cao, Faghri and Fleet, Adversarial Manipulation of Deep Representations, ICLR 2016, for the idea;
    the form is ours.
    """

    directed = True

    def __init__(self, layers: Sequence[str], toward: Any = None) -> None:
        self.features = LayerFeatures(layers, type(self).__name__)
        self.layers = self.features.names
        self.toward = None if toward is None else as_plain(as_tensor("toward", toward))

    @contextmanager
    def watching(self, networks: Sequence[nn.Module]) -> Iterator[None]:
        """Keep what the layers return in each forward pass."""
        with self.features.watching(networks):
            yield

    def prepare(self, target: Target, clean: CleanBatch) -> Target:
        """The clean features, or those of the other image with their distance from the clean ones."""
        origin = [features.detach().clone() for features in self.features.of(clean.image)]
        if self.toward is None:
            goal = origin
            length = [features.flatten(1).square().sum(dim=1) for features in origin]
        else:
            goal = features_toward(self.toward, self.features, clean)
            length = [(a - b).flatten(1).square().sum(dim=1) for a, b in zip(goal, origin, strict=True)]
        if any(bool((size <= 0).any()) for size in length):
            what = "are all 0" if self.toward is None else "of toward equal those of the image"
            raise ValueError(
                f"features of {', '.join(self.layers)} {what} in a sample: there is no distance to measure."
            )
        numbers = {f"features_{n}": features for n, features in enumerate(goal)}
        return target.with_numbers(**numbers, **{f"length_{n}": size for n, size in enumerate(length)})

    def value(self, logits: torch.Tensor, target: Target, progress: Progress, targeted: bool = False) -> torch.Tensor:
        total = torch.zeros(logits.shape[0], dtype=logits.dtype, device=logits.device)
        for number, features in enumerate(self.features.of(logits)):
            goal, length = (target.numbers[f"{name}_{number}"].to(logits.dtype) for name in ("features", "length"))
            share = (features.to(logits.dtype) - goal).flatten(1).square().sum(dim=1) / length
            total = total + (share if self.toward is None else 1 - share)
        return total / len(self.layers)


def features_toward(toward: torch.Tensor, features: LayerFeatures, clean: CleanBatch) -> list[torch.Tensor]:
    """Those of another image, (1 or batch, channel, spatial...), one pass away.

    Raises:
        ValueError: for another shape.
    """
    if toward.shape[1:] != clean.image.shape[1:] or toward.shape[0] not in (1, len(clean.image)):
        raise ValueError(
            f"toward must have shape {tuple(clean.image.shape)} to fit the image, got {tuple(toward.shape)}."
        )
    clean.segment(toward.to(clean.image).expand_as(clean.image).contiguous())
    return [found.detach().clone() for found in features.of(clean.image)]
