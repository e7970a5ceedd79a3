# SPDX-License-Identifier: Apache-2.0
"""Predictions that studies score: those that the attack has scored, where they are of the same image."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.attacks import Attack, AttackResult
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies.scoring import check_answer_fits, predict
from monai_adversarial.utils.plain import as_plain

__all__ = ["finished_prediction", "is_finished", "run_attack"]


def run_attack(
    attack: Attack, model: AttackedModel, image: torch.Tensor, label: torch.Tensor | None, **options: Any
) -> AttackResult:
    """Attack one case of a study.

    Args:
        attack, model, image, label: see ``Attack.__call__``.
        options: its further arguments.

    Raises:
        SettingsError: for an answer of the network that a study cannot score; for class names, which the attack checks
            at its clean pass, before the search begins.
    """
    try:
        result = attack(model, image, label, **options)
    except ValueError:
        _check(model)  # what does not fit concerns all cells, whatever the attack said of it
        raise
    _check(model)
    return result


def _check(model: AttackedModel) -> None:
    if (classes := model.found_classes) is not None:
        check_answer_fits(model, classes, model.activation_of(classes))


def is_finished(result: AttackResult, image: torch.Tensor) -> bool:
    """Whether an image is the attack's to the bit: what was measured and scored of one holds for the other."""
    finished = result.adversarial
    return image.dtype == finished.dtype and torch.equal(as_plain(image), as_plain(finished))


def finished_prediction(model: AttackedModel, result: AttackResult, image: torch.Tensor | None = None) -> torch.Tensor:
    """Class map (batch, 1, spatial...) of the adversarial image: the one that the attack has scored where ``image`` is
    the attack's to the bit, else the network's answer.

    A network that draws random numbers is asked again in any case: the attack may have chosen a draw that suited it.

    Args:
        model: what was attacked.
        result: of the attack.
        image: what is scored, for example as read back from its file, in the kind of ``result.adversarial``; None for
            ``result.adversarial``.
    """
    if model.found_random or not (image is None or is_finished(result, image)):
        return predict(model, result.adversarial if image is None else image)
    return result.prediction
