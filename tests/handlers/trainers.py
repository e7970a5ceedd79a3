# SPDX-License-Identifier: Apache-2.0
"""Small real trainers for the tests of the handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from torch import nn

from tests.utils import random_image, random_label

SHAPE = (1, 4, 4, 4)


class LinearSegmenter(nn.Module):
    """Logits that are linear in the voxel: the input gradient of a step has a closed form."""

    def __init__(self, classes: int = 2, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, classes, 1, dtype=dtype)
        with torch.no_grad():
            self.conv.weight.copy_(torch.linspace(-1.0, 1.0, classes, dtype=dtype).view(-1, 1, 1, 1, 1))
            self.conv.bias.copy_(torch.linspace(0.3, -0.2, classes, dtype=dtype))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image)


class SmallNetwork(nn.Module):
    """Convolutions with BatchNorm and, if wanted, dropout."""

    def __init__(self, norm: bool = True, dropout: float = 0.0, classes: int = 2, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Conv3d(1, 4, 3, padding=1)
            self.second = nn.Conv3d(4, classes, 1)
        self.norm = nn.BatchNorm3d(4) if norm else nn.Identity()
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.second(self.dropout(torch.relu(self.norm(self.first(image)))))


def cross_entropy(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Mean over voxels of the batch, label (batch, 1, spatial...)."""
    return nn.functional.cross_entropy(logits, label[:, 0].long())


def items(count: int = 4, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = SHAPE) -> list[dict[str, Any]]:
    """Random images and labels."""
    return [
        {"image": random_image(shape, seed=i, dtype=dtype), "label": random_label(shape, classes=2, seed=i)}
        for i in range(count)
    ]


def trainer(
    network: nn.Module,
    handlers: list[Any],
    data: list[dict[str, Any]] | None = None,
    loss: Callable[..., torch.Tensor] = cross_entropy,
    lr: float = 0.1,
    batch_size: int = 2,
    max_epochs: int = 1,
    **options: Any,
) -> SupervisedTrainer:
    """A real ``SupervisedTrainer`` with plain SGD and a data loader that does not shuffle."""
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=max_epochs,
        train_data_loader=DataLoader(Dataset(items() if data is None else data), batch_size=batch_size),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=lr),
        loss_function=loss,
        train_handlers=handlers,
        **options,
    )
