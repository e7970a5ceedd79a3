# SPDX-License-Identifier: Apache-2.0
"""Small classifiers whose answers are known in closed form, and one that looks at shapes."""

from __future__ import annotations

import math

import torch
from torch import nn

SIZE = 10


def images(count: int = 6, dims: int = 3, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    """(count, 1, size...) from 0.2 to 0.8: budgets up to 0.2 stay in the range."""
    generator = torch.Generator().manual_seed(seed)
    return 0.2 + 0.6 * torch.rand((count, 1, *[size] * dims), generator=generator)


class LinearClassifier(nn.Module):
    """Logits ``w x + b`` with the mean logits of ``images`` at zero, so that all classes occur.

    Args:
        classes: outputs.
        dims: spatial axes of the image.
        activation: ``"softmax"``, ``"sigmoid"`` or None for logits.
        squeeze: return (batch,) for one output.
    """

    def __init__(
        self, classes: int = 3, dims: int = 3, activation: str | None = None, squeeze: bool = False, size: int = SIZE
    ) -> None:
        super().__init__()
        self.activation, self.squeeze = activation, squeeze
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn((classes, size**dims), generator=generator) / math.sqrt(size**dims)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(-0.5 * weight.sum(dim=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, class)."""
        logits = image.flatten(1) @ self.weight.T + self.bias
        if self.activation is not None:
            logits = logits.softmax(dim=1) if self.activation == "softmax" else logits.sigmoid()
        return logits[:, 0] if self.squeeze else logits


class BlobClassifier(nn.Module):
    """Is the bright blob in the lower or the upper half of the first axis? Moving it turns the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(batch, 2)."""
        place = torch.linspace(-1, 1, image.shape[2]).view(1, 1, -1, *[1] * (image.ndim - 3))
        center = (image * place).flatten(1).sum(dim=1) / image.flatten(1).sum(dim=1)
        return self.scale * torch.stack([-center, center], dim=1)


def blob(place: float, size: int = 16) -> torch.Tensor:
    """A soft ball (1, 1, size, size, size) around ``place`` of the first axis, from -1 to 1."""
    axis = torch.linspace(-1, 1, size)
    x, y, z = torch.meshgrid(axis - place, axis, axis, indexing="ij")
    return torch.exp(-(x**2 + y**2 + z**2) / 0.08)[None, None]
