# SPDX-License-Identifier: Apache-2.0
"""Where a MONAI engine keeps what a model is read from."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.transforms import Compose

__all__ = ["check_engine", "postprocessing_of", "preprocessing_of", "scoring_precision_of", "steps_of"]

_PRECISION_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def check_engine(engine: Any) -> None:
    """Refuse engines whose task is not the segmentation of one image by one network.

    Raises:
        TypeError: for another engine, and for a detector.
    """
    if not isinstance(engine, (SupervisedEvaluator, SupervisedTrainer)):
        raise TypeError(
            "engine must be a monai SupervisedEvaluator or SupervisedTrainer (one network that segments one image), "
            f"got {type(engine).__name__}."
        )
    network = getattr(engine, "network", None)
    if any(base.__module__.startswith("monai.apps.detection.") for base in type(network).__mro__):
        raise TypeError(
            f"the engine's network is the detector {type(network).__name__}, which returns boxes: only segmentation "
            "networks are attacked."
        )


def steps_of(transform: Any) -> list[Any]:
    """The transforms of a pipeline in order, nested ``Compose`` flattened; empty for None."""
    if transform is None:
        return []
    if type(transform) is Compose or isinstance(transform, torch.nn.Sequential):
        members = transform.transforms if isinstance(transform, Compose) else list(transform)
        return [step for member in members for step in steps_of(member)]
    if isinstance(transform, (list, tuple)):
        return [step for member in transform for step in steps_of(member)]
    return [transform]


def preprocessing_of(engine: Any) -> Any:
    """The transform of the engine's dataset, through subsets; None where there is none."""
    dataset = getattr(getattr(engine, "data_loader", None), "dataset", None)
    for _ in range(8):
        transform = getattr(dataset, "transform", None)
        if transform is not None:
            return transform
        dataset = getattr(dataset, "dataset", None)
    return None


def postprocessing_of(engine: Any) -> Any:
    """The engine's postprocessing; None where there is none."""
    for handler, _, _ in engine._event_handlers.get(IterationEvents.MODEL_COMPLETED, []):
        if getattr(handler, "__qualname__", "").split(".<locals>")[0] == "Workflow._register_postprocessing":
            # MONAI keeps it nowhere else.
            return inspect.getclosurevars(handler).nonlocals["posttrans"]
    return None


def scoring_precision_of(engine: Any) -> str:
    """The arithmetic in which the engine runs its network: MONAI's autocast is for CUDA only."""
    device = engine.state.device
    if not engine.amp or device is None or device.type != "cuda":
        return "float32"
    dtype = engine.amp_kwargs.get("dtype") or torch.float16
    return _PRECISION_NAMES[dtype]
