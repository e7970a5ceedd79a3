# SPDX-License-Identifier: Apache-2.0
"""An audit as the handler of a live evaluator, for people who stay in MONAI's runner."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ignite.engine import Engine, Events

from monai_adversarial.audit.audit import audit
from monai_adversarial.audit.facts import TargetError
from monai_adversarial.audit.targets.evaluator import cases_of_evaluator, read_evaluator

__all__ = ["RobustnessAudit"]


class RobustnessAudit:
    """Audits the network of a ``SupervisedEvaluator`` on its own data, when its run has ended.

    The evaluator's clean run is what it is without the handler. Weights are those that it ran with.

    >>> from monai_adversarial.audit import RobustnessAudit
    >>> from monai_adversarial.data.example_engines import example_evaluator
    >>> handler = RobustnessAudit("audit", plan="quick", class_names=["background", "gallbladder", "liver", "lesion"])
    >>> example_evaluator([handler]).run()  # its data are no files
    Traceback (most recent call last):
    monai_adversarial.audit.facts.TargetError: the evaluator's dataset has no items with the path of an image.

    Args:
        output_dir: records, pictures and report.
        plan: see ``audit``.
        image_key: key of the image in the evaluator's data.
        label_key: key of the label, where there is one.
        options: further arguments of ``audit``.
        told: further arguments of ``AttackedModel`` for what cannot be read (``class_names``, ``activation``, ...).

    Attributes:
        summary: content of ``audit.json`` after the run.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        plan: str | os.PathLike[str] | Mapping[str, Any] = "quick",
        image_key: str = "image",
        label_key: str = "label",
        class_names: Sequence[str] | Mapping[Any, str] | None = None,
        told: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.output_dir, self.plan = output_dir, plan
        self.image_key, self.label_key = image_key, label_key
        self.told = {**(told or {}), **({} if class_names is None else {"class_names": class_names})}
        self.options = options
        self.summary: dict[str, Any] | None = None

    def attach(self, engine: Engine) -> None:
        """Join an evaluator."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Audit.

        Raises:
            TargetError: for an evaluator whose data have no files, or that cannot be audited.
        """
        cases = cases_of_evaluator(engine, self.image_key, self.label_key)
        if not cases:
            raise TargetError("the evaluator's dataset has no items with the path of an image.")
        parts = read_evaluator(engine, self.image_key, self.label_key, **self.told)
        self.summary = audit(parts, cases, self.plan, self.output_dir, **self.options)
