# SPDX-License-Identifier: Apache-2.0
"""Accuracy where one class is rare: one answer to everything must not look right, nor robust.

Nine of ten chest X-rays that are here to train on show pneumonia. A network that always says so is right nine times,
under any attack.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["Images", "accuracy", "as_many_of_each", "balanced", "balanced_accuracy", "evened", "repeated"]

#: name of a part -> images and their classes
Images = dict[str, tuple[torch.Tensor, torch.Tensor]]


def accuracy(network: nn.Module, part: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Share of a part's images that are answered right."""
    with torch.no_grad():
        return round(float((network(part[0]).argmax(dim=1) == part[1]).float().mean()), 4)


def balanced(right: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean over the classes of the share that is right: 0.5 for one answer to everything where there are two."""
    return round(float(torch.stack([right[labels == c].float().mean() for c in labels.unique()]).mean()), 4)


def balanced_accuracy(network: nn.Module, part: tuple[torch.Tensor, torch.Tensor]) -> float:
    """:func:`balanced` of a network's answers."""
    with torch.no_grad():
        return balanced(network(part[0]).argmax(dim=1) == part[1], part[1])


def _first_of_each(labels: torch.Tensor, each: int) -> torch.Tensor:
    """Places of the first images of each class."""
    return torch.cat([torch.nonzero(labels == c).flatten()[:each] for c in labels.unique()])


def _joined(data: Images, parts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = (torch.cat([data[name][place] for name in parts]) for place in (0, 1))
    return images, labels


def as_many_of_each(
    data: Images, each: int, parts: Sequence[str] = ("attacked", "clean")
) -> tuple[torch.Tensor, torch.Tensor]:
    """The first images of each class of some parts, which no network was trained on unless "train" is one."""
    images, labels = _joined(data, parts)
    rows = _first_of_each(labels, each)
    return images[rows], labels[rows]


def repeated(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The images with those of rare classes repeated, until there are as many of each class; what is trained on."""
    most = int(labels.bincount().max())
    parts = [torch.nonzero(labels == c).flatten() for c in labels.unique()]
    rows = torch.cat([part.repeat(-(-most // len(part)))[:most] for part in parts])
    return images[rows], labels[rows]


def evened(data: Images, attacked: int) -> Images:
    """The same parts, but as many attacked images of each class, and the other ones clean.

    Args:
        data: with "attacked" and "clean", which no network was trained on.
        attacked: images, of all classes together.
    """
    images, labels = _joined(data, ("attacked", "clean"))
    rows = _first_of_each(labels, attacked // len(labels.unique()))
    others = torch.ones(len(labels), dtype=torch.bool)
    others[rows] = False
    return data | {"attacked": (images[rows], labels[rows]), "clean": (images[others], labels[others])}
