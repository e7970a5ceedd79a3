# SPDX-License-Identifier: Apache-2.0
"""Whether what an engine predicts of an attacked image is what the attack has made of it."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.attacks import AttackResult
from monai_adversarial.attacks.flags import ROOM
from monai_adversarial.attacks.reference import Reference
from monai_adversarial.metrics.dice import hard_prediction
from monai_adversarial.models.raw_answer import as_logits, attacked_tensor
from monai_adversarial.utils.plain import as_plain

__all__ = ["say_own_answer"]


def say_own_answer(result: AttackResult, raw: Any) -> None:
    """Warn where the engine's own answer to the attacked image scores higher than the attack has left.

    An engine may run its network in training mode, average its answer with that to another image, or give it an image
    that nobody attacked: its metrics are then those of a function that was not attacked.

    Args:
        result: of the batch.
        raw: what the engine's network returned, before any postprocessing; anything but a tensor is not looked at.
    """
    model = result.model
    if model is None or result.metric != "Dice" or result.iou is not None or model.found_random:
        return
    try:
        answer = attacked_tensor(model, raw)
    except (TypeError, KeyError, IndexError):
        return
    prediction, classes = result.prediction, int(answer.shape[1])
    if answer.shape[0] != prediction.shape[0] or answer.shape[2:] != prediction.shape[2:]:
        return
    with torch.no_grad():
        found = hard_prediction(as_plain(as_logits(model, answer)), model.activation_of(classes)).to(prediction.device)
        label = torch.as_tensor(as_plain(result.label)).to(prediction.device)
        left = Reference.read(model, label, classes).score(found) - result.adversarial_score
    if bool((left > ROOM).any()):
        worst = int(left.nan_to_num(-1.0).argmax())
        before = float(result.adversarial_score[worst])
        model.warn_once(
            "own answer",
            f"the engine's own answer to the attacked image has a Dice of {before + float(left[worst]):.3f} where the "
            f"attack has left {before:.3f}: what it scores is not what was attacked (a network in training mode, an "
            "answer that is averaged with another, an image from elsewhere), and its metrics flatter.",
        )
