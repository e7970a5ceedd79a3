# SPDX-License-Identifier: Apache-2.0
"""A fixed network beside the one that is trained: a teacher, or the same network trained without attacks."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import nn

from monai_adversarial.handlers.engine_model import learned_logits
from monai_adversarial.inferers.outputs import map_outputs
from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.raw_answer import as_logits
from monai_adversarial.utils.modules import held_still
from monai_adversarial.utils.plain import as_plain

__all__ = ["ReferenceNetwork", "frozen_outputs", "reference_logits"]


def frozen_outputs(network: nn.Module, image: torch.Tensor, inferer: Callable[..., Any]) -> Any:
    """What a network returns in evaluation mode, without gradient; its modes and flags are as before afterwards.

    Args:
        network: returns logits, or several levels of them.
        image: (batch, channel, spatial...).
        inferer: called as ``inferer(image, network)``.
    """
    with torch.no_grad(), held_still(network) as still:
        return map_outputs(as_plain, inferer(as_plain(image), still))


class ReferenceNetwork:
    """A network that a handler asks and never changes.

    Args:
        network: any module; None is a TypeError.
        weights: checkpoint to load into it, see ``load_weights``; None leaves it as it is.
        name: the handler's argument, for error messages.

    Raises:
        TypeError: when ``network`` is not a module.
        FileNotFoundError, RuntimeError: for weights that cannot be loaded.
    """

    def __init__(self, network: Any, weights: str | os.PathLike[str] | None = None, name: str = "teacher") -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"{name} must be a torch.nn.Module, got {type(network).__name__}.")
        self.network, self.name = network, name
        self._model: AttackedModel | None = None
        if weights is not None:
            from monai_adversarial.utils.weights import load_weights  # only where there are any

            load_weights(network, weights)

    def check(self, engine: SupervisedTrainer, student: Any) -> None:
        """Raise ValueError when it is trained along, or on another device than the trained network."""
        weights = list(self.network.parameters())
        groups = getattr(getattr(engine, "optimizer", None), "param_groups", ())
        trained = {id(weight) for group in groups for weight in group["params"]}
        if isinstance(student, nn.Module):
            trained |= {id(weight) for weight in student.parameters()}
        shared = sum(id(weight) in trained for weight in weights)
        if shared or self.network is student:
            raise ValueError(
                f"{self.name} must stay as it is, but shares {shared} of its {len(weights)} parameters with the "
                "network that is trained or with its optimizer: pass another network, for example a copy."
            )
        own = next(self.network.parameters(), None)
        other = next(student.parameters(), None) if isinstance(student, nn.Module) else None
        if own is None:
            return
        if other is not None and own.device != other.device:
            raise ValueError(
                f"{self.name} is on {own.device} but the network that is trained is on {other.device}: move it."
            )
        device = engine.state.device
        if device is not None and own.device.type != torch.device(device).type:
            raise ValueError(f"{self.name} is on {own.device} but the trainer works on {device}: move it.")

    def logits(self, image: torch.Tensor, inferer: Callable[..., Any], model: AttackedModel) -> Any:
        """What it returns, see :func:`frozen_outputs`, as logits; ``model`` is the one under attack."""
        if self._model is None:
            self._model = model.replace(network=self.network)
        return reference_logits(self._model, frozen_outputs(self.network, image, inferer))


def reference_logits(model: AttackedModel, outputs: Any) -> Any:
    """Logits of all levels of a reference network's answer, also of one that ends in an activation.

    Args:
        model: the reference network as a model: what its values mean is found out the first time.
        outputs: what it returned.
    """
    learned_logits(model, outputs)
    return map_outputs(partial(as_logits, model), outputs)
