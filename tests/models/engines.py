# SPDX-License-Identifier: Apache-2.0
"""Small real engines whose pipelines say something about the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from torch import nn

from tests.helpers import random_label, tiny_segmentation_network

SHAPE = (1, 8, 8, 8)


def hounsfield(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    """Values from -300 to 500."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 800 - 300


def items(count: int = 2, classes: int = 3, label: bool = True) -> list[dict[str, Any]]:
    """Images in HU and class maps."""
    made: list[dict[str, Any]] = []
    for number in range(count):
        item: dict[str, Any] = {"image": hounsfield(seed=number)}
        if label:
            item["label"] = random_label(SHAPE, classes, seed=number)
        made.append(item)
    return made


def evaluator(
    network: nn.Module | None = None,
    preprocessing: Sequence[Any] | None = None,
    postprocessing: Sequence[Any] | None = None,
    data: list[dict[str, Any]] | None = None,
    engine: type[SupervisedEvaluator] = SupervisedEvaluator,
    batch_size: int = 1,
    **options: Any,
) -> SupervisedEvaluator:
    """A real evaluator on a CPU."""
    transform = None if preprocessing is None else Compose(list(preprocessing))
    dataset = Dataset(items() if data is None else data, transform)
    return engine(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(dataset, batch_size=batch_size),
        network=network or tiny_segmentation_network(),
        inferer=options.pop("inferer", None) or SimpleInferer(),
        postprocessing=None if postprocessing is None else Compose(list(postprocessing)),
        **options,
    )


def trainer(
    network: nn.Module | None = None,
    preprocessing: Sequence[Any] | None = None,
    data: list[dict[str, Any]] | None = None,
    loss: Any = None,
    max_epochs: int = 1,
    **options: Any,
) -> SupervisedTrainer:
    """A real trainer on a CPU."""
    network = network or tiny_segmentation_network()
    transform = None if preprocessing is None else Compose(list(preprocessing))
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=max_epochs,
        train_data_loader=DataLoader(Dataset(items() if data is None else data, transform), batch_size=1),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.01),
        loss_function=loss,
        **options,
    )
