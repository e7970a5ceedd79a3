# SPDX-License-Identifier: Apache-2.0
"""What the experiments attack: small classifiers that are trained here, and images that they answer right."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from monai.networks.nets import DenseNet
from torch import nn

from benchmarks.class_balance import Images, evened, repeated
from benchmarks.classifier_objectives import hippocampus_patches
from benchmarks.data_folder import data_folder
from benchmarks.survey_defense_claims import ATTACKED, fitted, xrays

__all__ = [
    "Subjects",
    "hippocampus",
    "hippocampus_slices",
    "right_answers",
    "small_network",
    "trained_on",
    "xrays_of_each",
]

#: seed -> parts "train" and "attacked", each images from 0 to 1 and classes
Subjects = Callable[[int], Images]


@cache
def hippocampus(seed: int) -> Images:
    """Patches of hippocampus MRI, three classes, of disjoint patients; others for each seed."""
    images, labels, test_images, test_labels = hippocampus_patches(data_folder(), seed=seed)
    chosen = torch.randperm(len(test_labels), generator=torch.Generator().manual_seed(seed))
    return {"train": (images, labels), "attacked": (test_images[chosen[:64]], test_labels[chosen[:64]])}


def hippocampus_slices(seed: int) -> Images:
    """The middle slices of such patches."""
    found = hippocampus(seed)
    return {name: (images[..., images.shape[-1] // 2], labels) for name, (images, labels) in found.items()}


@cache
def xrays_of_each(seed: int) -> Images:
    """Chest X-rays, of which nine of ten show pneumonia: rare ones are trained on again and again, in random order,
    and as many of each class are attacked, so that one answer to everything is worth nothing."""
    found = evened(xrays(seed), ATTACKED)
    images, labels = repeated(*found["train"])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return found | {"train": (images[order], labels[order])}


def small_network(images: torch.Tensor, classes: int, seed: int) -> nn.Module:
    """An untrained DenseNet for such images."""
    torch.manual_seed(seed)
    dimensions, channels = images.ndim - 2, images.shape[1]
    return DenseNet(dimensions, channels, classes, init_features=12, growth_rate=8, block_config=(2, 2))


def trained_on(
    images: torch.Tensor, labels: torch.Tensor, seed: int, epochs: int = 4, network: nn.Module | None = None
) -> nn.Module:
    """A classifier of these images, in evaluation mode.

    Args:
        images: from 0 to 1, (case, channel, spatial...).
        labels: class of each.
        seed: of the weights and of the order.
        epochs: over all images.
        network: untrained; None for :func:`small_network`.
    """
    made = small_network(images, int(labels.max()) + 1, seed) if network is None else network
    torch.manual_seed(seed)
    return fitted(made, images, labels, epochs, rate=3e-3)


def right_answers(part: tuple[torch.Tensor, torch.Tensor], *networks: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """The images of a part that all networks answer right.

    Raises:
        ValueError: where there is none.
    """
    right = torch.ones(len(part[1]), dtype=torch.bool)
    with torch.no_grad():
        for network in networks:
            right &= network(part[0]).argmax(dim=1) == part[1]
    if not right.any():
        raise ValueError(
            f"networks must answer at least one of {len(right)} images right, got none: train them longer."
        )
    return part[0][right], part[1][right]
