# SPDX-License-Identifier: Apache-2.0
"""Metrics that give several numbers, in the metrics of an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler
from monai.metrics import CumulativeIterationMetric

__all__ = ["CaseMetricHandler"]


class CaseMetricHandler(IgniteMetricHandler):
    """MONAI's ``IgniteMetricHandler`` for metrics that return several named numbers.

    Attached under a name, ``engine.state.metrics`` holds ``{name}_{number}`` for each of them, and
    ``engine.state.metric_details[name]`` the rows of all cases. ``DetectionMetric``, ``AdversarialRisk`` and every
    ``CaseMetric`` can be attached. What an attack does inside an evaluator is counted by
    ``AdversarialEvaluation(metrics=)``.

    >>> import torch
    >>> from ignite.engine import Engine
    >>> from monai_adversarial.handlers import CaseMetricHandler
    >>> from monai_adversarial.metrics import VolumeChange
    >>> engine = Engine(lambda engine, batch: batch)
    >>> clean = torch.ones(1, 1, 4, 4, 4)
    >>> metric = CaseMetricHandler(VolumeChange(["background", "liver"]), options=lambda out: {"spacing": 5.0})
    >>> metric.attach(engine, "volume")
    >>> engine.run([(clean - clean, clean)]).metrics
    {'volume_liver_change_ml': -8.0, 'volume_liver_change_percent': -100.0}

    Args:
        metric_fn: the metric.
        output_transform: from the engine's output to ``(y_pred, y)``, batches or decollated lists.
        options: from the engine's output to further arguments of the metric by name, such as ``spacing``; a list of
            one tensor per case is cut with a decollated batch. None for no arguments.
        save_details: keep the rows of the cases, for MONAI's ``MetricsSaver``.

    Raises:
        TypeError: for something else than a metric of MONAI.
    """

    def __init__(
        self,
        metric_fn: CumulativeIterationMetric,
        output_transform: Callable[..., Any] = lambda output: output,
        options: Callable[..., Mapping[str, Any]] | None = None,
        save_details: bool = True,
    ) -> None:
        if not isinstance(metric_fn, CumulativeIterationMetric):
            raise TypeError(
                f"metric_fn must be a metric such as OrganDrop(class_names), got {type(metric_fn).__name__}."
            )

        def with_options(output: Any) -> tuple[Any, ...]:
            pair = output_transform(output)
            return (*pair, {} if options is None else dict(options(output)))

        super().__init__(metric_fn=metric_fn, output_transform=with_options, save_details=save_details)

    def update(self, output: Sequence[Any]) -> None:
        """Count a batch.

        Args:
            output: ``y_pred``, ``y`` and the options.
        """
        y_pred, y, options = output
        self.metric_fn(y_pred, y, **options)

    def completed(self, engine: Engine, name: str) -> None:
        """Write each number under its own name."""
        result = self.compute()
        if not isinstance(result, Mapping):
            engine.state.metrics[name] = result
            return
        engine.state.metrics.update({f"{name}_{key}": value for key, value in result.items()})
