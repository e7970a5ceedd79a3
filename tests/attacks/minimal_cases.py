# SPDX-License-Identifier: Apache-2.0
"""A network whose smallest changes are known in closed form."""

from __future__ import annotations

import torch
from torch import nn


class LinearDecision(nn.Module):
    """One linear score of the whole volume decides about all voxels of a mask: inside it the logits are (0, score),
    outside (0, -1). The organ of the mask is there as long as the score is above zero.

    Args:
        weight: (1, spatial...), what the score counts each voxel with.
        bias: (1,).
        mask: (spatial...), boolean.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, mask: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.register_buffer("mask", mask)
        self.eval()

    def score(self, image: torch.Tensor) -> torch.Tensor:
        """(batch,)."""
        return (image * self.weight).flatten(1).sum(dim=1) + self.bias

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = self.score(image).view(-1, *[1] * (image.ndim - 1))
        organ = torch.where(self.mask, score, -1.0)
        return torch.cat([torch.zeros_like(organ), organ], dim=1)


def linear_case(
    batch: int = 1, size: int = 6, seed: int = 0, margin: float = 5.0
) -> tuple[LinearDecision, torch.Tensor, torch.Tensor]:
    """A network that finds the organ in each image, by a margin that differs, and image and label."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size,) * 3
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[1:4, 1:4, 1:4] = True
    weight = torch.randn((1, *shape), generator=generator)
    image = 0.3 + 0.4 * torch.rand((1, 1, *shape), generator=generator)
    image = image + 0.05 * torch.rand((batch, 1, *shape), generator=generator)
    network = LinearDecision(weight, torch.zeros(1), mask)
    with torch.no_grad():
        network.bias -= network.score(image).min() - margin
    label = mask.long().expand(batch, 1, *shape).clone()
    return network, image, label


def distance(network: LinearDecision, image: torch.Tensor, norm: str) -> torch.Tensor:
    """Smallest norm of a change that brings the score to zero, without a range of values, (batch,)."""
    weight, score = network.weight.detach().flatten(), network.score(image).detach()
    dual = {"l2": weight.norm(), "linf": weight.abs().sum(), "l1": weight.abs().max()}[norm]
    return score / dual
