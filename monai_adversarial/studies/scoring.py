# SPDX-License-Identifier: Apache-2.0
"""How studies predict and score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.attacks import Attack
from monai_adversarial.metrics.dice import mean_of_defined, organ_dice
from monai_adversarial.metrics.organs import organ_names
from monai_adversarial.metrics.success import success_rule
from monai_adversarial.models import AttackedModel
from monai_adversarial.models.prediction import answer_of
from monai_adversarial.studies.study import SettingsError
from monai_adversarial.utils.modules import modules_of, unwrap
from monai_adversarial.utils.plain import as_plain

__all__ = [
    "check_answer_fits",
    "class_map",
    "device_of",
    "dice_of",
    "listed_names",
    "mean_dice",
    "named_model",
    "predict",
    "scored_organs",
    "success_definition",
]

DiceScores = dict[str, dict[str, float | None]]


def success_definition(attack: Attack) -> str:
    """What ``success`` means for an attack, for records and below tables."""
    return f"mean organ {success_rule(attack.success_threshold, attack.targeted)}"


def named_model(model: Any, class_names: Sequence[str] | Mapping[Any, str] | None) -> AttackedModel:
    """The model of a study, with the class names given beside it, as a list.

    A list names each output channel, so that the first attack finds at its clean pass where it does not fit; a mapping
    may name some.

    Raises:
        SettingsError: for a mapping that leaves out a class between others.
    """
    wrapped = AttackedModel.wrap(model)
    given = wrapped.class_names if class_names is None else class_names
    return wrapped if given is None else wrapped.replace(class_names=listed_names(given))


def listed_names(class_names: Sequence[str] | Mapping[Any, str]) -> list[str]:
    """Class names in the order of the channels, background first.

    Raises:
        ValueError: for names that cannot be class names.
        SettingsError: for a mapping that leaves out a class between others.
    """
    organs = organ_names(class_names)
    if not isinstance(class_names, Mapping):
        return list(class_names)
    if list(organs) != list(range(1, len(organs) + 1)):
        raise SettingsError(
            "class_names must name each of the network's output channels, background first, got names for the "
            f"channels {', '.join(map(str, organs))}."
        )
    background = next((name for index, name in class_names.items() if int(index) == 0), "background")
    return [str(background), *organs.values()]


def device_of(model: AttackedModel) -> torch.device:
    """Where the network's weights are."""
    for network in modules_of(unwrap(model.network)):
        for weight in network.parameters():
            return weight.device
    return torch.device("cpu")


def scored_organs(model: AttackedModel, channels: int | None = None) -> dict[int, str]:
    """Class index to name of the organs that are scored.

    Args:
        model: its ``class_names`` and ``scored_classes``.
        channels: output channels of the network; None before its first answer.

    Raises:
        ValueError: for names that cannot be class names, and for scored classes that the names lack.
        SettingsError: for names that are not one for each output channel.
    """
    given = model.class_names
    if given is None:
        if channels is None:
            raise ValueError("class_names must name the network's classes, background first: the model has none.")
        given = ["background", *(f"class_{index}" for index in range(1, max(channels, 2)))]
    if channels == 1 and len(given) == 1:
        given = ["background", next(iter(given.values())) if isinstance(given, Mapping) else given[0]]
    organs = organ_names(given)
    # One sigmoid channel: the background has no channel of its own.
    if channels is not None and sorted({0, *organs}) != list(range(max(channels, 2))):
        raise SettingsError(
            f"class_names must name each of the network's {channels} output channels, background first, got "
            f"{len({0, *organs})} names: {', '.join(organs.values())}."
        )
    if model.scored_classes is None:
        return organs
    scored = {i: name for i, name in organs.items() if i in model.scored_classes or name in model.scored_classes}
    unknown = [one for one in model.scored_classes if one not in scored and one not in scored.values()]
    if unknown or not scored:
        raise ValueError(
            f"scored_classes must be among {', '.join(organs.values())}, got {list(model.scored_classes)}."
        )
    return scored


def predict(model: AttackedModel, image: torch.Tensor) -> torch.Tensor:
    """Class map (batch, 1, spatial...) as the deployed network gives it; one sigmoid channel gives classes 0 and 1.

    Args:
        model: read in its scoring precision.
        image: (batch, channel, spatial...) in the model's image units.

    Raises:
        SettingsError: for class names that do not fit the answer, and for overlapping sigmoid classes.
    """
    answer = answer_of(model, image)
    check_answer_fits(model, answer.classes, answer.activation)
    return answer.prediction


def check_answer_fits(model: AttackedModel, channels: int, activation: str) -> None:
    """Refuse answers that a study cannot score, whatever the case.

    Args:
        model: with class names.
        channels: of the network's output.
        activation: ``"softmax"`` or ``"sigmoid"``.

    Raises:
        SettingsError: for a classifier, class names that are not one for each channel, and overlapping sigmoid classes.
    """
    if model.classifies:
        raise SettingsError(
            "a study scores segmentations, but the network gives one answer per image, as a classifier does: call the "
            "attack, or AdversarialEvaluation in an evaluator."
        )
    scored_organs(model, channels)
    if activation == "sigmoid" and channels > 1:
        raise SettingsError(
            f"a study scores exclusive classes (or one sigmoid output), but the network has {channels} overlapping "
            "sigmoid classes."
        )


def class_map(values: torch.Tensor) -> torch.Tensor:
    """Class map (spatial...) on the CPU of a one-sample label (1, 1 or class, spatial...), one-hot or not."""
    plain = as_plain(values).detach()
    return (plain[0].argmax(dim=0) if plain.shape[1] > 1 else plain[0, 0]).to(device="cpu", dtype=torch.int32)


def dice_of(
    prediction: torch.Tensor, label: torch.Tensor, organs: Mapping[int, str], ignore_index: int | None = None
) -> DiceScores:
    """Dice of each organ of one case; None for an organ that is neither in the label nor in the prediction.

    Args:
        prediction: class map (1, 1, spatial...).
        label: class map (1, 1, spatial...) or one-hot (1, class, spatial...).
        organs: class index -> name.
        ignore_index: value of label voxels that do not count.
    """
    found, true = class_map(prediction)[None], class_map(label)[None]
    valid = None if ignore_index is None else true != ignore_index
    scores = organ_dice(found, true, organs, max(organs) + 1, "softmax", valid)
    return {name: {"dice": value if value == value else None} for name, value in scores.items()}


def mean_dice(scores: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Mean Dice over the organs where it is defined; None where it is nowhere."""
    mean = mean_of_defined(score["dice"] for score in scores.values())
    return mean if mean == mean else None
