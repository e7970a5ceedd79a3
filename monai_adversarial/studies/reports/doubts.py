# SPDX-License-Identifier: Apache-2.0
"""What stands below the tables of a study where its figures look better than they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.attacks.flags import MOST_ZERO, UNBROKEN
from monai_adversarial.metrics.clean_score import low_clean_caution
from monai_adversarial.studies.measurement import LABEL
from monai_adversarial.utils.shown_names import shown_name

__all__ = ["study_doubts"]

Record = Mapping[str, Any]


def study_doubts(records: Sequence[Record]) -> list[str]:
    """Sentences on clean scores that leave nothing to lose, and on attacks that had no gradient to follow.

    Args:
        records: of an ``AttackStudy``.
    """
    clean = {record["case"]: record["mean"]["clean"]["dice"] for record in records if record["reference"] == LABEL}
    dice = [float("nan") if value is None else float(value) for value in clean.values()]
    caution = low_clean_caution(torch.tensor(dice, dtype=torch.float64))
    found = [f"{caution}."] if caution else []
    for attack in dict.fromkeys(record["attack"] for record in records):
        of_attack = [record for record in records if record["attack"] == attack]
        blind = [record["case"] for record in of_attack if _is_blind(record)]
        if blind:
            found.append(
                f"{shown_name(attack)} had hardly a gradient to follow in {len(blind)} of {len(of_attack)} cases, and "
                "left their score standing: that is no robustness; see docs/gradient_masking.md#zero-gradients."
            )
    return found


def _is_blind(record: Record) -> bool:
    """Whether nearly all gradient entries were zero and more than half of the clean score is left."""
    zeros = record["zero_gradient_fraction"]
    before, after = (record["mean"][image]["dice"] for image in ("clean", "adversarial"))
    if zeros is None or before is None or after is None or record["success"]:
        return False
    return bool(zeros > MOST_ZERO and after > UNBROKEN * before)  # NaN is neither
