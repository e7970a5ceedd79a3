# SPDX-License-Identifier: Apache-2.0
"""Which classes the labels of a data set know at all: data sets of one organ do not say where the others are."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np

from monai_adversarial.data.saving import read_reference
from monai_adversarial.models import AttackedModel
from monai_adversarial.studies.scoring import scored_organs

__all__ = ["LabeledClasses"]


class LabeledClasses:
    """Finds the classes that occur in any label; what was read of a file is remembered."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, int, int], frozenset[int]] = {}

    def of_files(self, labels: Iterable[str]) -> frozenset[int]:
        """Class indices that occur in any of these files; unreadable ones are left to who needs their voxels."""
        found: set[int] = set()
        for label in labels:
            try:
                found |= self._of_file(label)
            except (OSError, RuntimeError, ValueError):
                continue
        return frozenset(found)

    def _of_file(self, label: str) -> frozenset[int]:
        status = os.stat(label)
        key = label, status.st_mtime_ns, status.st_size
        if key not in self._values:
            values = np.unique(np.asarray(read_reference(label).dataobj))
            self._values[key] = frozenset(int(value) for value in values if float(value).is_integer())
        return self._values[key]

    def scored(self, model: AttackedModel, labels: Iterable[str]) -> AttackedModel:
        """The model that scores the labeled classes only, with a fact that says so; itself where all are labeled, where
        none is, and where it was told what to score.

        Args:
            model: what is attacked, with names of its classes.
            labels: label files of the whole data set.
        """
        if model.scored_classes is not None:
            return model
        organs, present = scored_organs(model), self.of_files(labels)
        labeled = {index: name for index, name in organs.items() if index in present}
        if not labeled or len(labeled) == len(organs):
            return model
        missing = ", ".join(name for index, name in organs.items() if index not in labeled)
        fact = f"scored classes: {', '.join(labeled.values())}; in no label of this data set: {missing}"
        return model.replace(scored_classes=tuple(labeled.values()), facts=(*model.facts, fact))
