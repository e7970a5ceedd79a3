# SPDX-License-Identifier: Apache-2.0
"""A trainer and an evaluator of the example case in one line: what the examples of handlers are attached to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.losses import DiceCELoss
from monai.transforms import ScaleIntensityRanged

from monai_adversarial.data.example import ExampleNetwork, example_case

__all__ = ["example_evaluator", "example_trainer"]


def example_trainer(
    handlers: Sequence[Any] = (), network: torch.nn.Module | None = None, size: int = 16
) -> SupervisedTrainer:
    """MONAI's trainer for one epoch of one case, whose preprocessing has the window of -160..340 HU.

    Batches stay whole: ``trainer.state.output`` is one dictionary.

    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> trainer = example_trainer()
    >>> trainer.run()
    >>> trainer.state.output["loss"].item() > 0, trainer.state.iteration
    (True, 1)

    Args:
        handlers: of the trainer.
        network: from (1, 1, spatial...) to (1, 4, spatial...); None for an ``ExampleNetwork``.
        size: voxels along each axis, at least 16.

    Raises:
        ValueError: for a size below 16.
    """
    network = ExampleNetwork() if network is None else network
    return SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=_loader(size),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1e-6),
        loss_function=DiceCELoss(include_background=False, to_onehot_y=True, softmax=True),
        train_handlers=list(handlers),
        decollate=False,
    )


def example_evaluator(
    handlers: Sequence[Any] = (), network: torch.nn.Module | None = None, size: int = 16
) -> SupervisedEvaluator:
    """MONAI's evaluator of one case, whose preprocessing has the window of -160..340 HU.

    >>> from monai_adversarial.data.example_engines import example_evaluator
    >>> evaluator = example_evaluator()
    >>> evaluator.run()
    >>> evaluator.state.output[0]["pred"].shape
    torch.Size([4, 16, 16, 16])

    Args:
        handlers, network, size: see :func:`example_trainer`.

    Raises:
        ValueError: for a size below 16.
    """
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=_loader(size),
        network=ExampleNetwork() if network is None else network,
        val_handlers=list(handlers),
    )


def _loader(size: int) -> DataLoader:
    _, image, label = example_case(size)
    window = ScaleIntensityRanged("image", a_min=-160, a_max=340, b_min=0, b_max=1, clip=True)
    return DataLoader(Dataset([{"image": image[0], "label": label[0], "case": "example"}], window), batch_size=1)
