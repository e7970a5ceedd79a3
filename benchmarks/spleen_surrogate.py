# SPDX-License-Identifier: Apache-2.0
"""Another network that knows the spleen: the abdominal U-Net on what the spleen network is given."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["SpleenOfAbdomen"]


class SpleenOfAbdomen(nn.Module):
    """Logits of "spleen or not" from a network of several organs that reads HU.

    Args:
        network: maps HU to logits of classes, background first.
        spleen: its class of the spleen.
        window: HU that 0 and 1 of the image stand for. What lies outside of it is lost to this network, too.
    """

    def __init__(self, network: nn.Module, spleen: int, window: tuple[float, float]) -> None:
        super().__init__()
        self.network = network
        self.spleen = spleen
        self.low, self.high = window

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (batch, 2, x, y, z) of an image (batch, 1, x, y, z) from 0 to 1.

        The softmax of both is what the network gives the spleen, and what it gives all else.
        """
        logits = self.network(self.low + image * (self.high - self.low))
        spleen = logits[:, self.spleen : self.spleen + 1]
        rest = torch.cat([logits[:, : self.spleen], logits[:, self.spleen + 1 :]], dim=1)
        return torch.cat([rest.logsumexp(dim=1, keepdim=True), spleen], dim=1)
