# SPDX-License-Identifier: Apache-2.0
"""What an attack costs each organ, in Dice and in intersection over union."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.metrics.dice import class_dice
from monai_adversarial.metrics.organ_metric import OrganMetric

__all__ = ["OrganDrop"]

_COLUMNS = ("clean_dice", "dice", "dice_drop", "dice_drop_percent", "iou_drop")


class OrganDrop(OrganMetric):
    """Dice of each organ before and under attack, and the drop: absolute, in percent of the clean Dice, and in IoU.

    Empty organs: a Dice follows the rule of ``organ_dice``. A drop is defined where both Dice are, and in percent where
    the clean one is above 0; an organ that is only invented under attack is counted by :class:`OrganPresence`.

    >>> import torch
    >>> from monai_adversarial.metrics import OrganDrop
    >>> metric = OrganDrop(["background", "liver"])
    >>> label, attacked = torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, 0, 1, 0]]])
    >>> _ = metric(attacked, label, clean=label)
    >>> metric.aggregate()["liver_dice_drop"], metric.aggregate()["liver_dice_drop_percent"]
    (0.5, 50.0)

    Called with the prediction under attack, the label that belongs to the attacked anatomy, and ``clean``, the clean
    prediction. ``clean_label`` belongs to the clean anatomy, where a geometric attack moved the other one.

    Args:
        class_names, activation, classes, ignore_index: see :class:`OrganMetric`.

    Raises:
        ValueError: for segmentations that do not fit.

    Source: textbook.

    Survey entry: M02 (own).
    """

    def _columns(self) -> tuple[str, ...]:
        return tuple(f"{organ}_{column}" for organ in self.organs.values() for column in _COLUMNS)

    def rows(
        self,
        y_pred: torch.Tensor,
        y: torch.Tensor | None = None,
        clean: torch.Tensor | None = None,
        clean_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See the class."""
        attacked = self.checked("y_pred", y_pred)
        moved = self.checked("y", y, attacked)
        before = self.checked("clean", clean, attacked)
        label = moved if clean_label is None else self.checked("clean_label", clean_label, attacked)
        after, first = self._dice(attacked, moved), self._dice(before, label)
        drop = first - after
        percent = torch.where(first > 0, 100.0 * drop / first, torch.nan)
        overlap = first / (2 - first) - after / (2 - after)
        return torch.stack([first, after, drop, percent, overlap], dim=2).flatten(1)

    def _dice(self, prediction: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        found = class_dice(
            prediction, label, list(self.organs), self.network_classes, self.activation, self.valid(label)
        )
        return found.to("cpu", torch.float64)

    def add(self, result: Any) -> torch.Tensor:
        """See :meth:`CaseMetric.add`."""
        return self(result.prediction, result.label, clean=result.clean_prediction, clean_label=result.clean_label)
