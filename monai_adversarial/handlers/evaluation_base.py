# SPDX-License-Identifier: Apache-2.0
"""How robust scores get into ``engine.state.metrics``, in time for whoever reads it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator

from monai_adversarial.handlers.evaluation_engine import add_first
from monai_adversarial.metrics.robust_dice import RobustDice

__all__ = ["RobustEvaluation", "attached_evaluations"]


def attached_evaluations(engine: SupervisedEvaluator) -> dict[str, RobustEvaluation]:
    """The evaluations of an engine by name."""
    owners = [getattr(handler, "__self__", None) for handler, _, _ in engine._event_handlers[Events.EPOCH_COMPLETED]]
    return {owner.name: owner for owner in owners if isinstance(owner, RobustEvaluation)}


class RobustEvaluation(ABC):
    """Reports a :class:`RobustDice` of each epoch as metrics and metric details of the evaluator.

    Args:
        name: first part of the metrics' names, an identifier.
        key_metric: make ``{name}_mean_dice`` (of a classifier ``{name}_accuracy``) the evaluator's key metric.

    Raises:
        ValueError: for a name that is not an identifier.
    """

    def __init__(self, name: str, key_metric: bool = False) -> None:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"name must be an identifier (letters, digits, underscores), got {name!r}.")
        self.name = name
        self.key_metric = bool(key_metric)
        self._metric_name: str | None = None
        self._is_attached = False
        self._published: tuple[set[str], set[str]] = (set(), set())

    def attach(self, engine: SupervisedEvaluator, name: str | None = None) -> None:
        """Attach to a ``SupervisedEvaluator``.

        Args:
            engine: the evaluator.
            name: given by the evaluator where this is in its ``key_val_metric`` or ``additional_metrics``: the mean
                over the cases is reported under this name too, unless it is one of the metrics anyway.

        Raises:
            TypeError: for another engine.
            ValueError: for a name that is taken, a second key metric, and whatever else cannot work.
        """
        kind = type(self).__name__
        if not isinstance(engine, SupervisedEvaluator):
            raise TypeError(
                f"{kind} must be attached to a monai.engines.SupervisedEvaluator, got {type(engine).__name__}."
            )
        if self._is_attached:
            raise ValueError(f"this {kind} ({self.name!r}) is already attached to an evaluator: make another one.")
        if self.name in attached_evaluations(engine):
            raise ValueError(
                f"name {self.name!r} is taken by another evaluation of this evaluator: give each its own name."
            )
        key_metric_name = engine.state.key_metric_name
        if name is None and self.key_metric and key_metric_name is not None:
            raise ValueError(
                f"key_metric=True but the evaluator has the key metric {key_metric_name!r}: pass this handler as "
                "key_val_metric instead, or drop one of the two."
            )
        self._metric_name = name
        self.key_metric = name == key_metric_name if name is not None else self.key_metric
        self._check(engine)
        self._is_attached = True
        if self.key_metric and name is None:
            self._become_key_metric(engine)
        add_first(engine, Events.EPOCH_COMPLETED, self._publish)
        engine.add_event_handler(Events.EPOCH_STARTED, self._forget)

    def _become_key_metric(self, engine: SupervisedEvaluator) -> None:
        """Let MONAI compare: the last handler that it registers, moved to the front."""
        engine._register_metrics({self._key_name: _AlreadyAttached()})
        handlers = engine._event_handlers[Events.EPOCH_COMPLETED]
        handlers.insert(0, handlers.pop())

    @property
    def _key_name(self) -> str:
        """The name that MONAI is to compare by, before the task is seen."""
        return f"{self.name}_mean_dice"

    @abstractmethod
    def _check(self, engine: SupervisedEvaluator) -> None:
        """Raise for what can be seen at this time to be wrong."""

    @abstractmethod
    def scores(self) -> RobustDice | None:
        """The cases of the last epoch, of all ranks; None when the epoch was not evaluated under attack.

        With several processes every rank has to call it.
        """

    def further(self) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """Numbers and details of the cases that are reported beside the scores, by their names."""
        return {}, {}

    def _forget(self, engine: SupervisedEvaluator) -> None:
        for name in self._published[0]:
            engine.state.metrics.pop(name, None)
        for name in self._published[1]:
            engine.state.metric_details.pop(name, None)
        self._published = (set(), set())

    def _publish(self, engine: SupervisedEvaluator) -> None:
        scores = self.scores()
        if scores is None:
            return
        metrics, details = scores.metrics(self.name), scores.details(self.name)
        mean = f"{self.name}_{scores.mean_name}"
        if self.key_metric and self._metric_name is None and self._key_name != mean:
            raise ValueError(
                f"key_metric=True stands for {self._key_name!r}, but what was evaluated is {mean!r}: tell "
                "model={'task': 'classification'} for a classifier, or give the handler as key_val_metric."
            )
        if self._metric_name is not None and self._metric_name not in metrics:
            metrics[self._metric_name], details[self._metric_name] = metrics[mean], details[mean]
        if self.key_metric and math.isnan(metrics[self._metric_name or mean]):
            raise ValueError(
                f"the key metric {self._metric_name or mean!r} is not defined: no case of the validation data has any "
                "of the organs or classes that are scored."
            )
        numbers, of_cases = self.further()
        metrics, details = {**numbers, **metrics}, {**of_cases, **details}
        self._published = (set(metrics), set(details))
        engine.state.metrics.update(metrics)
        engine.state.metric_details.update(details)


class _AlreadyAttached:
    """Stands for a metric that fills ``engine.state.metrics`` by itself."""

    def attach(self, engine: Any, name: str) -> None:
        """Nothing to do."""
