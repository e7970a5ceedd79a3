# SPDX-License-Identifier: Apache-2.0
"""A live MONAI evaluator as the target of an audit."""

from __future__ import annotations

from typing import Any

from monai.engines import SupervisedEvaluator
from monai.transforms import Compose

from monai_adversarial.audit.facts import Fact, TargetError
from monai_adversarial.audit.parts import TargetParts
from monai_adversarial.audit.targets.bundle_config import is_saver
from monai_adversarial.audit.targets.bundle_items import takes_label
from monai_adversarial.models.engine_parts import postprocessing_of, preprocessing_of, steps_of

__all__ = ["cases_of_evaluator", "read_evaluator"]


def read_evaluator(engine: Any, image_key: str = "image", label_key: str = "label", **told: Any) -> TargetParts:
    """Read a ``SupervisedEvaluator`` with its transforms; those that write files are left out.

    Args:
        engine: after its weights were loaded.
        image_key, label_key: keys of its items.
        told: further arguments of ``AttackedModel``.

    Raises:
        TargetError: for another engine.
    """
    if not isinstance(engine, SupervisedEvaluator):
        raise TargetError(f"engine must be a monai SupervisedEvaluator, got {type(engine).__name__}.")
    preprocessing, postprocessing = preprocessing_of(engine), postprocessing_of(engine)
    steps = steps_of(postprocessing)
    kept = [step for step in steps if not is_saver(type(step).__name__)]
    left_out = [type(step).__name__ for step in steps if step not in kept]
    facts = [Fact("savers left out", ", ".join(left_out), "postprocessing")] if left_out else []
    return TargetParts(
        kind="MONAI evaluator",
        name=type(engine.network).__name__,
        network=engine.network,
        inferer=engine.inferer,
        preprocessing=preprocessing,
        postprocessing=Compose(kept) if kept else None,
        engine=engine,
        prepare_batch=engine.prepare_batch,
        image_key=image_key,
        label_key=label_key,
        preprocesses_label=takes_label(preprocessing, label_key),
        told=told,
        facts=facts,
    )


def cases_of_evaluator(engine: Any, image_key: str = "image", label_key: str = "label") -> list[dict[str, Any]]:
    """The items of an evaluator's dataset as cases of an audit, with ids that name nobody; empty without paths."""
    dataset = getattr(getattr(engine, "data_loader", None), "dataset", None)
    items = getattr(dataset, "data", None)
    cases = []
    for number, item in enumerate(items or []):
        if not isinstance(item, dict) or not isinstance(item.get(image_key), (str, list, tuple)):
            return []
        case = {"image": item[image_key], "case_id": f"case_{number:03d}"}
        if isinstance(item.get(label_key), str):
            case["label"] = item[label_key]
        cases.append(case)
    return cases
