# SPDX-License-Identifier: Apache-2.0
"""What an evaluation under attack has to know about a MONAI evaluator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Evaluator, PrepareBatch, PrepareBatchDefault, SupervisedEvaluator, default_prepare_batch
from monai.engines.utils import IterationEvents, engine_apply_transform
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    Decollated,
    MapTransform,
    SaveClassificationd,
    SaveImage,
    SaveImaged,
)

from monai_adversarial.models.engine_parts import postprocessing_of
from monai_adversarial.utils.modules import modules_of

__all__ = [
    "EnginePostprocessing",
    "RememberedBatch",
    "add_first",
    "check_labels",
    "check_network",
    "evaluating",
    "forgets_batches",
    "has_own_iteration",
    "remembers_batches",
]

# They would overwrite the files of the clean prediction.
WRITERS = (SaveImage, SaveImaged, SaveClassificationd)
# Where transforms are that take the first axis for the channels.
CHANNEL_FIRST = tuple(
    f"monai.transforms.{name}." for name in ("croppad", "intensity", "post", "smooth_field", "spatial")
)


def _handlers(engine: Evaluator, event: Any) -> list[tuple[Callable[..., Any], tuple, dict]]:
    """The handlers of an event in the order in which they are called; Ignite has no public way to read it."""
    return engine._event_handlers.get(event, [])


def add_first(engine: Evaluator, event: Events, handler: Callable[..., Any]) -> None:
    """Add a handler before all others: what it reports is there when savers and loggers of the event look for it,
    whatever their place in the list of handlers."""
    engine.add_event_handler(event, handler)
    handlers = _handlers(engine, event)
    handlers.insert(0, handlers.pop())


def check_network(network: Any, device: torch.device | None) -> None:
    """Raise ValueError unless the network has parameters and they are on the evaluator's device."""
    parameters = [(name, weight) for module in modules_of(network) for name, weight in module.named_parameters()]
    if not parameters:
        raise ValueError(
            f"network must have parameters, got {type(network).__name__} without any: there is nothing to attack."
        )
    for name, weight in parameters:
        if device is not None and (
            weight.device.type != device.type or device.index not in (None, weight.device.index)
        ):
            raise ValueError(
                f"network must be on the evaluator's device {device}, got the weight {name!r} on {weight.device}: move "
                "it there first."
            )


class RememberedBatch(PrepareBatch):
    """The evaluator's ``prepare_batch`` while it runs: it keeps the further inputs of the network, which the evaluator
    hands on and does not keep.

    Attributes:
        arguments: further positional and keyword inputs of the last batch.
    """

    def __init__(self, inner: Callable[..., Any]) -> None:
        self.inner = inner
        self.arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def __call__(
        self, batchdata: Any, device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> Any:
        """Prepare the batch as before."""
        prepared = self.inner(batchdata, device, non_blocking, **kwargs)
        further = prepared[2:] if isinstance(prepared, (tuple, list)) and len(prepared) == 4 else ((), {})
        self.arguments = (tuple(further[0]), dict(further[1]))
        return prepared


def remembers_batches(engine: SupervisedEvaluator) -> None:
    """Put :class:`RememberedBatch` around the evaluator's ``prepare_batch``, once."""
    if not isinstance(engine.prepare_batch, RememberedBatch):
        engine.prepare_batch = RememberedBatch(engine.prepare_batch)


def forgets_batches(engine: SupervisedEvaluator) -> None:
    """Give the evaluator its own ``prepare_batch`` back."""
    if isinstance(engine.prepare_batch, RememberedBatch):
        engine.prepare_batch = engine.prepare_batch.inner


def has_own_iteration(engine: SupervisedEvaluator) -> bool:
    """Whether the evaluator does something else with a batch than MONAI's ``SupervisedEvaluator``."""
    iteration = engine._process_function
    return getattr(iteration, "__func__", iteration) is not SupervisedEvaluator._iteration


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """Evaluation mode without gradients; each module is in its own mode afterwards (frozen layers stay frozen)."""
    modes = [(module, module.training) for found in modules_of(network) for module in found.modules()]
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_labels(engine: Evaluator, key: str) -> None:
    """Raise ValueError where the evaluator's data certainly has no label, which is found out without loading any."""
    if engine.prepare_batch is not default_prepare_batch and not isinstance(engine.prepare_batch, PrepareBatchDefault):
        return
    dataset = getattr(engine.data_loader, "dataset", None)
    items = getattr(dataset, "data", None)
    if not isinstance(items, Sequence) or not items or not isinstance(items[0], Mapping) or key in items[0]:
        return
    transform = getattr(dataset, "transform", None)
    steps = transform.flatten().transforms if isinstance(transform, Compose) else [transform]
    if all(step is None or _cannot_make(step, key) for step in steps):
        raise ValueError(
            f"the evaluator's data has no {key!r} (the first item holds {list(items[0])}): robust Dice needs labels."
        )


def _cannot_make(transform: Any, key: str) -> bool:
    """A dictionary transform of MONAI that has the key in none of its arguments."""
    if not isinstance(transform, MapTransform) or not type(transform).__module__.startswith("monai.transforms"):
        return False
    mentioned: list[Any] = []
    for value in vars(transform).values():
        mentioned.extend(value if isinstance(value, (list, tuple)) else [value])
    return not any(isinstance(value, str) and value == key for value in mentioned)


class EnginePostprocessing:
    """Does to a model output what the evaluator does after ``MODEL_COMPLETED``: decollate and postprocess.

    Args:
        engine: the evaluator.
        transform: used instead of the evaluator's own ``postprocessing``.

    Attributes:
        transform: what is applied, without transforms that write files; None where the evaluator has no postprocessing.

    Raises:
        ValueError: where a transform of MONAI that works on one case would get whole batches.
    """

    def __init__(self, engine: Evaluator, transform: Callable[..., Any] | None = None) -> None:
        registered = {
            getattr(handler, "__qualname__", "").split(".<locals>")[0]
            for handler, _, _ in _handlers(engine, IterationEvents.MODEL_COMPLETED)
        }
        self.decollate = "Workflow._register_decollate" in registered
        self.transform = _without_writers(postprocessing_of(engine) if transform is None else transform)
        if not self.decollate and (name := _of_one_case(self.transform)) is not None:
            raise ValueError(
                f"the evaluator must have decollate=True, got False: its postprocessing {name} works on one case, "
                "channel first, and on a batch it would take the cases for channels: no Dice could be made of it."
            )

    def __call__(self, batch: Any, output: dict[str, Any]) -> Any:
        """The finished output: a list of dictionaries (decollated) or one dictionary of batch-first tensors.

        Args:
            batch: the collated batch; it is not changed.
            output: image, label and prediction; tensors may be changed in place.
        """
        batch, output = copy.copy(batch), dict(output)
        finished: Any = output
        if self.decollate:
            decollate = Decollated(keys=None, detach=True)
            batch = decollate(batch) if isinstance(batch, (list, dict)) else batch
            finished = decollate(output)
        if self.transform is None:
            return finished
        if isinstance(batch, list) and isinstance(finished, list):
            pairs = zip(batch, finished, strict=False)  # as MONAI does
            return [engine_apply_transform(b, o, self.transform)[1] for b, o in pairs]
        return engine_apply_transform(batch, finished, self.transform)[1]


def _of_one_case(transform: Any) -> str | None:
    """Name of a transform of MONAI's that takes the first axis for the channels; None for no such transform."""
    if isinstance(transform, Compose):
        return next((name for name in map(_of_one_case, transform.transforms) if name is not None), None)
    kind = type(transform)
    if isinstance(transform, AsDiscreted) and not any(transform.argmax) and not any(transform.to_onehot):
        return None  # a threshold of single values
    if isinstance(transform, Activationsd) and not any(transform.softmax) and not any(transform.other):
        return None
    return kind.__name__ if kind.__module__.startswith(CHANNEL_FIRST) else None


def _without_writers(transform: Any) -> Any:
    if isinstance(transform, WRITERS):
        return None
    if type(transform) is not Compose:
        return transform
    kept = copy.copy(transform)
    inner = map(_without_writers, transform.transforms)
    kept.transforms = [step for step in inner if step is not None]  # type: ignore[assignment]
    return kept
