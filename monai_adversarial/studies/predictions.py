# SPDX-License-Identifier: Apache-2.0
"""Predictions that studies score: those that the attack has scored, where they are of the same image."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.attacks import Attack, AttackResult
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies.scoring import predict, refuse_overlapping
from monai_adversarial.studies.study import SettingsError
from monai_adversarial.utils.plain import as_plain

__all__ = ["clean_prediction", "finished_prediction", "is_finished", "run_attack"]


def run_attack(
    attack: Attack, model: AttackedModel, image: torch.Tensor, label: torch.Tensor | None, **options: Any
) -> AttackResult:
    """Attack one case of a study.

    Args:
        attack, model, image, label: see ``Attack.__call__``.
        options: its further arguments.

    Raises:
        SettingsError: for class names that do not fit the network's answer, before the search begins.
    """
    try:
        return attack(model, image, label, **options)
    except ValueError:
        misfit = _misfit(model, image)  # names that do not fit concern all cells, whatever the attack said of them
        if misfit is None:
            raise
    raise misfit


def _misfit(model: AttackedModel, image: torch.Tensor) -> SettingsError | None:
    """What a study has against a network's answer, if anything."""
    try:
        predict(model, image)
    except SettingsError as error:
        return error
    except Exception:  # the attack's own error says it better
        return None
    return None


def clean_prediction(result: AttackResult) -> torch.Tensor:
    """Class map (batch, 1, spatial...) of the clean image, as the attack has scored it.

    Raises:
        SettingsError: for overlapping sigmoid classes.
    """
    refuse_overlapping(result.clean_prediction.shape[1])
    return result.clean_prediction


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

    Raises:
        SettingsError: for overlapping sigmoid classes.
    """
    if model.found_random or not (image is None or is_finished(result, image)):
        return predict(model, result.adversarial if image is None else image)
    refuse_overlapping(result.prediction.shape[1])
    return result.prediction
