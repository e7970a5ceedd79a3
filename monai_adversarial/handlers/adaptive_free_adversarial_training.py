# SPDX-License-Identifier: Apache-2.0
"""Free adversarial training whose replays follow the gradient of the perturbation."""

from __future__ import annotations

from typing import Any

import torch
from ignite import distributed
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer

from monai_adversarial.attacks.perturbations import Parameters, Perturbation
from monai_adversarial.handlers.engine_model import Told
from monai_adversarial.handlers.free_adversarial_training import FreeAdversarialTraining
from monai_adversarial.utils.validation import check_count, check_positive

__all__ = ["AdaptiveFreeAdversarialTraining"]


class AdaptiveFreeAdversarialTraining(FreeAdversarialTraining):
    """Self-adaptive free adversarial training (SEAT): a batch is replayed more often while the network still yields.

    It is :class:`FreeAdversarialTraining` that begins with one replay. The magnitude of an epoch is the mean of the
    sums of absolute values of the perturbation's gradient. After ``check_interval`` epochs each batch is trained on
    twice; the epoch after it sets the threshold, ``growth`` times its magnitude. Then, every ``check_interval`` epochs,
    a magnitude above the threshold adds a replay, up to ``most_replays``. One below the threshold divided by ``growth``
    takes one away, down to two. Each change sets the threshold to ``growth`` times the magnitude of now.

    An epoch keeps its number of iterations: with three replays it sees a third of the batches, and a training of so
    many epochs costs what a clean one does, whatever happens. ``state.metrics["replays"]`` and
    ``state.metrics["gradient_magnitude"]`` say what it does. A training that is resumed begins with a new batch.

    >>> from monai_adversarial.data.example_engines import example_trainer
    >>> from monai_adversarial.handlers import AdaptiveFreeAdversarialTraining
    >>> handler = AdaptiveFreeAdversarialTraining(8, "HU", check_interval=1)
    >>> trainer = example_trainer([handler])
    >>> trainer.run()
    >>> handler.replays, trainer.state.metrics["gradient_magnitude"] > 0
    (2, True)

    Args:
        perturbation, units, model: see :class:`FreeAdversarialTraining`.
        most_replays: how often a batch may be used before the next one.
        check_interval: epochs between changes.
        growth: factor of a threshold over the magnitude that sets it, at least 1.
        relative_step, region_key: see :class:`FreeAdversarialTraining`.

    Attributes:
        replays: how often a batch is used now.
        threshold: of the magnitude; None before it is set.

    Raises:
        TypeError, ValueError, RuntimeError: as :class:`FreeAdversarialTraining`; also for a ``growth`` below 1.

    Source: SEAT (MICCAI 2023), from its published code: 5 replays at most, 3 epochs, growth of 1.1. There an epoch
    becomes longer with each replay, and the size of the perturbation's step is rounded down to whole gray values, which
    makes it 0 in normalized images; the magnitude is of the scaled loss. The paper was not read.

    Survey entry: X15 (adapted).
    """

    def __init__(
        self,
        perturbation: Perturbation | float,
        units: str = "network",
        model: Told = None,
        *,
        most_replays: int = 5,
        check_interval: int = 3,
        growth: float = 1.1,
        relative_step: float = 1.0,
        region_key: str | None = None,
    ) -> None:
        super().__init__(perturbation, units, model, replays=1, relative_step=relative_step, region_key=region_key)
        self.most_replays = check_count("most_replays", most_replays, minimum=2)
        self.check_interval = check_count("check_interval", check_interval)
        self.growth = check_positive("growth", growth)
        if self.growth < 1:
            raise ValueError(f"growth must be at least 1, got {growth}.")
        self.threshold: float | None = None
        self._sum: torch.Tensor | None = None
        self._count = 0

    def describe(self) -> str:
        """What it will do."""
        return (
            f"trains on each batch up to {self.most_replays} times in a row, by the gradient of every "
            f"{self.check_interval} epoch(s), perturbed with {self.perturbation!r}, which steps by "
            f"{self.relative_step:g} times its budget along the trainer's own gradient"
        )

    def attach(self, engine: Engine) -> None:
        """Join a trainer; see :class:`~monai_adversarial.handlers.base.TrainingHandler`."""
        super().attach(engine)
        self._removable.append(engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch_completed))

    def replays_done(self, iteration: int) -> int:
        """None: the trainer's iteration does not say how many replays each batch before has had."""
        return 0

    def watch(self, engine: SupervisedTrainer, gradients: Parameters) -> None:
        """Add the sum of absolute values, without the factor of the trainer's scaler."""
        scale = engine.scaler.get_scale() if engine.scaler is not None else 1.0
        magnitude = torch.stack([gradient.abs().double().sum() for gradient in gradients]).sum() / scale
        self._sum = magnitude if self._sum is None else self._sum + magnitude
        self._count += 1

    def epoch_completed(self, engine: SupervisedTrainer) -> None:
        """Log the epoch's magnitude, the mean of all processes, and choose the replays of the next one."""
        if self._sum is None:
            return
        # Processes with unequal replays would wait for each other: all of them decide by the same number.
        mean = float(distributed.all_reduce(self._sum / self._count) / distributed.get_world_size())  # type: ignore[operator]
        self._sum, self._count = None, 0
        self.choose(engine.state.epoch, mean)
        engine.state.metrics["gradient_magnitude"] = mean
        engine.state.metrics["replays"] = self.replays

    def choose(self, epoch: int, magnitude: float) -> None:
        """Change ``replays`` and ``threshold`` after an epoch, counted from 1, by the magnitude of its gradient."""
        if epoch == self.check_interval:
            self.replays = 2
        elif epoch < self.check_interval:
            return
        elif self.threshold is None:
            self.threshold = self.growth * magnitude
        elif epoch % self.check_interval == 0:
            more = magnitude > self.threshold and self.replays < self.most_replays
            fewer = magnitude < self.threshold / self.growth and self.replays > 2
            if more or fewer:
                self.replays += 1 if more else -1
                self.threshold = self.growth * magnitude

    def state_dict(self) -> dict[str, Any]:
        """The perturbation, replays and threshold; a check within an epoch counts what comes after it."""
        return {**super().state_dict(), "replays": self.replays, "threshold": self.threshold}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what was saved."""
        super().load_state_dict(state)
        self.replays, self.threshold = state["replays"], state["threshold"]
