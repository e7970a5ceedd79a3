# SPDX-License-Identifier: Apache-2.0
"""Small real trainers for the tests of the handlers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver
from torch import nn

from tests.helpers import random_image, random_label

SHAPE = (1, 4, 4, 4)
# What handlers are told of the model, so that the attack computes as formulas written by hand do.
FLOAT32 = {"precision": "float32"}


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


def whole_and_resumed(make_handler: Callable[[], Any], folder: Path) -> list[list[nn.Module]]:
    """Networks, and teachers where the handler has one, after 4 epochs in one go and after 2 epochs, a checkpoint of
    MONAI's, and 2 more in new objects."""

    def run(seed: int, epochs: int, save: bool = False, load: bool = False) -> list[nn.Module]:
        network, handler = SmallNetwork(seed=seed), make_handler()
        engine = trainer(network, [handler], max_epochs=epochs)
        things = {"model": network, "optimizer": engine.optimizer, "trainer": engine, "adversarial": handler}
        if save:
            CheckpointSaver(str(folder), things, save_final=True, final_filename="last.pt").attach(engine)
        if load:
            CheckpointLoader(str(folder / "last.pt"), things).attach(engine)
        engine.run()
        return [network, *([handler.average] if hasattr(handler, "average") else [])]

    whole = run(5, 4)
    run(5, 2, save=True)
    return [whole, run(6, 4, load=True)]


def assert_same_weights(networks: list[nn.Module], others: list[nn.Module]) -> None:
    """Bit for bit."""
    for one, other in zip(networks, others, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name
