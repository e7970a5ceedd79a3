# SPDX-License-Identifier: Apache-2.0
"""The record of a measurement: the same keys in every study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import monai
import torch

import monai_adversarial
from monai_adversarial.attacks import Attack, Measurement
from monai_adversarial.metrics.success import success
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies.scoring import mean_dice, success_definition
from monai_adversarial.studies.study import Cell
from monai_adversarial.utils.hashing import describe, network_hash
from monai_adversarial.utils.modules import modules_of, unwrap

__all__ = [
    "CLEAN_PREDICTION",
    "LABEL",
    "RECORD_VERSION",
    "by_reference",
    "common_settings",
    "measured_budgets",
    "measurement_record",
    "model_settings",
    "network_hashes",
    "norm_of",
]

RECORD_VERSION = 4
LABEL, CLEAN_PREDICTION = "label", "clean prediction"

Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]


def common_settings() -> dict[str, Any]:
    """What decides the records of every study."""
    return {"record": RECORD_VERSION, "version": monai_adversarial.__version__}


def model_settings(model: AttackedModel) -> Any:
    """What decides a model's answers; the sentences that say where it was read do not."""
    return describe(model.replace(facts=()))


def network_hashes(model: AttackedModel) -> list[str]:
    """SHA-256 of the weights of each network behind a model."""
    return [network_hash(network) for network in modules_of(unwrap(model.network))]


def norm_of(attack: Attack) -> str | None:
    """The norm of an attack's budget, where its perturbation names one."""
    norm = getattr(attack.perturbation, "norm", None)
    return norm if isinstance(norm, str) else None


def measured_budgets(measured: Mapping[str, Measurement], norm: str | None = None) -> dict[str, dict[str, Any]]:
    """What was measured on the finished image of one case, with the limit of its budget.

    Args:
        measured: of ``AttackResult``.
        norm: of the budget, see ``norm_of``.
    """
    found = {}
    for name, one in measured.items():
        limit = one.limit_of(0)
        found[name] = {
            "value": float(one.values[0]),
            "units": one.units,
            "limit": limit,
            "tolerance": one.tolerance_of(0),
            "bound": None if limit is None else "lower" if one.at_least else "upper",
            "norm": norm if limit and not one.at_least else None,
        }
    return found


def measurement_record(
    cell: Cell,
    attack: Attack | None,
    model: AttackedModel,
    *,
    reference: str,
    scores: Scores,
    measurements: Mapping[str, Mapping[str, Any]],
    cost: Mapping[str, Any],
    hashes: Mapping[str, Any],
    mean: Mapping[str, Mapping[str, Any]] | None = None,
    clean: str = "clean",
    adversarial: str = "adversarial",
    files: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The record of one cell.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.studies import Cell, measurement_record
    >>> attack, (model, image, label) = PGD(16, "HU", steps=3), example_case(16)
    >>> scores = {"clean": {"liver": {"dice": 0.9}}, "adversarial": {"liver": {"dice": 0.2}}}
    >>> record = measurement_record(
    ...     Cell("case_1", "pgd"), attack, model, reference="label", scores=scores, measurements={},
    ...     cost={"forwards": 5, "backwards": 3, "seconds": 0.1}, hashes={},
    ... )
    >>> record["case"], record["success"]
    ('case_1', True)

    Args:
        cell: its names.
        attack: what attacked; None for the clean image alone.
        model: what was attacked.
        reference: what scores compare with: ``"label"``, or ``"clean prediction"`` where there is no label.
        scores: image -> organ -> at least ``dice``, None or NaN where it is not defined.
        measurements: of ``measured_budgets``.
        cost: ``forwards``, ``backwards`` and seconds.
        hashes: SHA-256 of network, inputs and files.
        mean: image -> at least ``dice``; None for the mean over organs.
        clean: the image in ``scores`` that success compares with.
        adversarial: the image in ``scores`` that success is about.
        files: kind -> path below the output folder.
        more: what one kind of study adds.
    """
    means = {image: {"dice": mean_dice(of_image)} for image, of_image in scores.items()} | dict(mean or {})
    before, after = (means.get(image, {}).get("dice") for image in (clean, adversarial))
    succeeded = None
    if attack is not None:
        # A Dice that is nowhere defined is no success.
        was, became = (math.nan if value is None else float(value) for value in (before, after))
        succeeded = bool(success(was, became, attack.success_threshold, attack.targeted))
    return {
        **asdict(cell),
        "reference": reference,
        "scores": scores,
        "mean": means,
        "measurements": measurements,
        "success": succeeded,
        "success_definition": None if attack is None else success_definition(attack),
        "cost": dict(cost),
        "configuration": None if attack is None else describe(attack),
        "facts": list(model.findings),
        "versions": {
            "monai_adversarial": monai_adversarial.__version__,
            "monai": monai.__version__,
            "torch": torch.__version__,
        },
        "hashes": dict(hashes),
        "files": dict(files or {}),
        **more,
    }


def by_reference(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Records by what they were scored against, labels first: the two are never averaged together."""
    return {
        reference: found
        for reference in (LABEL, CLEAN_PREDICTION)
        if (found := [record for record in records if record["reference"] == reference])
    }
