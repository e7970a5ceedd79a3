# SPDX-License-Identifier: Apache-2.0
"""Which classes the labels of a data set hold: LiTS labels the liver alone, whatever the network knows.

A class that no label holds cannot be scored: where the network finds it, rightly, its Dice would be 0.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch

from monai_adversarial.models import AttackedModel
from monai_adversarial.studies.scoring import class_map, scored_organs
from monai_adversarial.studies.study import SettingsError
from monai_adversarial.utils.shown_names import shown_name

__all__ = ["label_of", "labeled_organs", "scored_where_labeled", "unlabeled_fact", "values_of", "values_of_all"]


def label_of(dataset: Any, index: int, label_key: str) -> torch.Tensor:
    """The label of one item, without its image where the transform of the data set can do without.

    Args:
        dataset: MONAI ``Dataset``, or any sequence of dictionaries.
        index: of the item.
        label_key: key of the label.
    """
    data, transform = getattr(dataset, "data", None), getattr(dataset, "transform", None)
    if transform is not None and data is not None:
        try:
            return torch.as_tensor(transform({label_key: data[index][label_key]})[label_key])
        except Exception:  # a transform that needs the image as well
            pass
    return torch.as_tensor(dataset[index][label_key])


def values_of(label: torch.Tensor) -> frozenset[int]:
    """The classes of a label (1 or class, spatial...), or of a batch of one."""
    batch = label if label.ndim > 4 else label[None]
    return frozenset(int(value) for value in class_map(batch).unique().tolist())


def values_of_all(dataset: Any, label_key: str) -> frozenset[int]:
    """The classes in the labels of a data set; a label that cannot be read is left out: its cells fail and say why."""
    found: set[int] = set()
    for index in range(len(dataset)):
        try:
            found |= values_of(label_of(dataset, index, label_key))
        except Exception:
            continue
    return frozenset(found)


def labeled_organs(organs: Mapping[int, str], values: Collection[int]) -> dict[int, str]:
    """The organs that labels hold.

    Args:
        organs: class index -> name of what the network knows.
        values: of all labels.

    Raises:
        SettingsError: where that is none.
    """
    found = {index: name for index, name in organs.items() if index in values}
    if not found:
        raise SettingsError(
            f"the labels hold the values {sorted(values)} and so none of the network's organs "
            f"({', '.join(f'{index} {name}' for index, name in organs.items())}): give labels with the network's class "
            "indices, or score against the network's own prediction (reference='prediction')."
        )
    return found


def scored_where_labeled(model: AttackedModel, values: Collection[int]) -> tuple[AttackedModel, list[str]]:
    """A model that scores the classes that labels hold, with a fact that says so; itself where that is all of them,
    or where it was told what is scored.

    Args:
        model: with class names.
        values: of all labels of the data set.

    Returns:
        the model, and the names of the classes that no label holds.

    Raises:
        SettingsError: see ``labeled_organs``.
    """
    if model.scored_classes is not None:
        return model, []
    organs = scored_organs(model)
    found = labeled_organs(organs, values)
    absent = [name for index, name in organs.items() if index not in found]
    if not absent:
        return model, []
    fact = unlabeled_fact(found.values(), absent)
    return model.replace(scored_classes=list(found.values()), facts=(*model.facts, fact)), absent


def unlabeled_fact(scored: Iterable[str], absent: Iterable[str]) -> str:
    """The sentence that says what is scored, and what no label holds."""
    first, second = (", ".join(map(shown_name, names)) for names in (scored, absent))
    return f"scored classes: {first}; not labeled in this data set: {second}"
