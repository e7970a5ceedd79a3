# SPDX-License-Identifier: Apache-2.0
"""A network as libraries are given it that know neither HU nor windows."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["BehindWindow"]


class BehindWindow(nn.Module):
    """A network on values from 0 to 1, which does not see changes of voxels that its intensity window clips.

    Args:
        network: what is called.
        image: clean image (batch, channel, spatial...), in the network's values.
        low, high: values of the network that 0 and 1 stand for.
    """

    def __init__(self, network: nn.Module, image: torch.Tensor, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.network, self.image, self.low, self.high = network, image, low, high
        self.reachable = (image > low) & (image < high)
        self.eval()

    @property
    def clean(self) -> torch.Tensor:
        """The image from 0 to 1."""
        return ((self.image - self.low) / (self.high - self.low)).clamp(0, 1)

    def seen(self, scaled: torch.Tensor) -> torch.Tensor:
        """What the network is given, in its values: clipped voxels are as they were."""
        return torch.where(self.reachable, self.low + scaled * (self.high - self.low), self.image)

    def forward(self, scaled: torch.Tensor) -> torch.Tensor:
        """(batch, channel, spatial...) from 0 to 1 to what the network answers."""
        return self.network(self.seen(scaled))
