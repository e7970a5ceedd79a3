# SPDX-License-Identifier: Apache-2.0
"""The model under attack of an engine: what the engine shows of it, and what a handler was told besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from torch import nn

from monai_adversarial.models.attacked_model import AttackedModel
from monai_adversarial.models.output_values import OutputSummary, note_output_values, read_output_values
from monai_adversarial.models.raw_answer import as_logits, attacked_tensor

__all__ = [
    "Told",
    "check_told",
    "inference_of",
    "learned_logits",
    "model_of",
    "told_argument",
]

#: What a handler may be told of the model: all of it, some of its arguments, its network, or nothing.
Told = AttackedModel | Mapping[str, Any] | Callable[..., Any] | None


def check_told(model: Any) -> Told:
    """What a handler was told, if a model can be made of it.

    Raises:
        TypeError, ValueError: for something else, in one sentence.
    """
    if isinstance(model, Mapping):
        # The engine's network is not known yet: the other arguments are checked with one that stands for it.
        AttackedModel(nn.Identity()).replace(**{name: value for name, value in model.items() if name != "image_key"})
    elif model is not None and not isinstance(model, AttackedModel) and not callable(model):
        raise TypeError(
            "model must be an AttackedModel, a mapping of its arguments, a network, or None for the engine's own, got "
            f"{type(model).__name__}."
        )
    return model


def told_argument(told: Told, name: str) -> Any:
    """One argument of the model as it was told; None where it was not."""
    if isinstance(told, Mapping):
        return told.get(name)
    if isinstance(told, AttackedModel):
        return getattr(told, name)
    return told if name == "network" else None


def model_of(engine: SupervisedTrainer | SupervisedEvaluator, told: Told = None) -> AttackedModel:
    """The model under attack: what ``AttackedModel.from_engine`` reads, with what was told.

    Args:
        engine: a trainer or evaluator that knows its network.
        told: an ``AttackedModel`` (without an inferer it gets the engine's), a mapping of some of its arguments, a
            network to attack instead of the engine's, or None.

    Raises:
        TypeError, ValueError: for an engine that does not segment, and for what contradicts its pipeline.
    """
    if isinstance(told, AttackedModel):
        facts = _told_facts(told)
    elif isinstance(told, Mapping):
        facts = dict(told)
    else:
        facts = {} if told is None else {"network": told}
    network, inferer = facts.pop("network", None), facts.pop("inferer", None)
    read = AttackedModel.from_engine(engine, **facts)
    if inferer is not None:
        read = read.replace(inferer=inferer)
    return read if network is None else read.replace(network=network)


def _told_facts(model: AttackedModel) -> dict[str, Any]:
    """The arguments of a model that are not left at their defaults."""
    plain = vars(AttackedModel(model.network))
    given = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    return {name: value for name, value in given.items() if name == "network" or value != plain[name]}


def learned_logits(model: AttackedModel, raw: Any) -> torch.Tensor:
    """Logits of what the network returned; the first time it is found out what its values mean."""
    answer = attacked_tensor(model, raw)
    if model.found_output_values is None:
        note_output_values(model, read_output_values(model, OutputSummary.of(answer)))
    return as_logits(model, answer)


def inference_of(model: AttackedModel, inferer: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """``(image, network) -> raw``: an inferer with the model's further inputs of the network.

    Args:
        model: the model.
        inferer: instead of its own.
    """
    used, args, kwargs = inferer or model.inferer, model.network_args, model.network_kwargs
    assert used is not None  # that of the engine at least
    return lambda image, network: used(image, network, *args, **kwargs)
