# SPDX-License-Identifier: Apache-2.0
"""A teacher that is the exponential average of the network that is trained."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_adversarial.handlers.engine_model import inference_of, learned_logits
from monai_adversarial.handlers.reference_network import frozen_outputs
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.utils.validation import check_fraction

__all__ = ["AveragedTeacher", "teacher_probabilities"]


def teacher_probabilities(network: nn.Module, image: torch.Tensor, model: AttackedModel) -> torch.Tensor:
    """Probabilities (batch, class, spatial...) of a network in evaluation mode, without gradient.

    Args:
        network: returns what the model's network returns.
        image: (batch, channel, spatial...).
        model: the inferer, the output that counts, and what its values mean.
    """
    logits = learned_logits(model, frozen_outputs(network, image, inference_of(model))).float()
    sigmoid = model.activation_of(int(logits.shape[1])) == "sigmoid"
    return logits.sigmoid() if sigmoid else logits.softmax(dim=1)


class AveragedTeacher:
    """Torch's ``AveragedModel`` for a network that is known only when the trainer starts.

    Args:
        decay: share of the average that stays in each iteration.

    Attributes:
        network: the average, frozen; None before the trainer starts.

    Raises:
        ValueError: for a decay outside (0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0.0 < check_fraction("decay", decay) < 1.0:
            raise ValueError(f"decay must be between 0 and 1, got {decay!r}.")
        self.decay = float(decay)
        self._average: AveragedModel | None = None
        self._student: nn.Module | None = None
        self._loaded: dict[str, Any] | None = None

    @property
    def network(self) -> nn.Module | None:
        """The average; None before the trainer starts."""
        return None if self._average is None else self._average.module

    def follow(self, engine: Engine) -> RemovableEventHandle:
        """Update after each iteration of a trainer."""
        return engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)

    def begin(self, student: nn.Module) -> None:
        """Start as a copy of the network (once)."""
        self._student = student
        if self._average is None:
            average = get_ema_multi_avg_fn(self.decay)
            self._average = AveragedModel(student, multi_avg_fn=average, use_buffers=True).requires_grad_(False)
            if self._loaded is not None:
                self._average.load_state_dict(self._loaded)
                self._loaded = None

    def _update(self, engine: Engine) -> None:
        assert self._average is not None and self._student is not None
        self._average.update_parameters(self._student)

    def probabilities(self, image: torch.Tensor, model: AttackedModel) -> torch.Tensor:
        """What the teacher says; see :func:`teacher_probabilities`."""
        assert self.network is not None
        return teacher_probabilities(self.network, image, model)

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights; empty before the first iteration."""
        if self._average is None:
            return {} if self._loaded is None else {"average": self._loaded}
        return {"average": self._average.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up averaged weights, now or as soon as there is a network."""
        weights = state.get("average")
        if weights is None:
            return
        if self._average is None:
            self._loaded = weights
        else:
            self._average.load_state_dict(weights)
