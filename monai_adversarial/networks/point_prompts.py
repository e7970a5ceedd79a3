# SPDX-License-Identifier: Apache-2.0
"""Points as a channel of the image, so that networks that take coordinates are attacked like those that take maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from monai_adversarial.utils.point_channel import read_points, write_points
from monai_adversarial.utils.validation import check_count

__all__ = ["PointPromptedNetwork"]


class PointPromptedNetwork(nn.Module):
    """A network that takes points or box corners beside the image, as one whose last input channel holds them.

    >>> import torch
    >>> from monai_adversarial.networks import PointPromptedNetwork
    >>> class Near(torch.nn.Module):
    ...     def forward(self, image, points):
    ...         place = torch.arange(image.shape[2]).view(1, 1, -1, 1, 1)
    ...         return 3 - (place - points[:, 0, 0].view(-1, 1, 1, 1, 1)).abs() + 0 * image
    >>> network = PointPromptedNetwork(Near(), count=1)
    >>> network(network.join(torch.zeros(1, 1, 8, 8, 8), torch.tensor([[[4.0, 0.0, 0.0]]]))).shape
    torch.Size([1, 1, 8, 8, 8])

    Args:
        network: called as ``network(image, points)``, or ``network(image, points, labels)`` with ``labels``.
        count: points of each image: 2 for the corners of a box.
        labels: of the points, the same for each image, for example (2, 3) for the corners of a box in VISTA3D.

    Raises:
        ValueError: for labels that are not one for each point.
    """

    def __init__(self, network: Callable[..., Any], count: int, labels: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network, self.count = network, check_count("count", count)
        if labels is not None and len(labels) != count:
            raise ValueError(f"labels must be one for each of the {count} points, got {list(labels)}.")
        self.labels = None if labels is None else tuple(int(label) for label in labels)

    def join(self, image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """The input of ``forward``: (batch, channel + 1, spatial...) from an image and points (batch, point, axis)."""
        if points.shape[1] != self.count:
            raise ValueError(f"points must be {self.count} for each image, got {points.shape[1]}.")
        return torch.cat([image, write_points(image[:, :1], points.to(image))], dim=1)

    def forward(self, joined: torch.Tensor) -> Any:
        """The network's answer.

        Args:
            joined: see ``join``.
        """
        image, points = joined[:, :-1], read_points(joined[:, -1:], self.count)
        if self.labels is None:
            return self.network(image, points)
        labels = torch.tensor(self.labels, device=image.device).expand(len(image), -1)
        return self.network(image, points, labels)
