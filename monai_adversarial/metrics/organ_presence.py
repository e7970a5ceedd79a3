# SPDX-License-Identifier: Apache-2.0
"""Organs that a segmentation misses or invents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_adversarial.metrics.dice import mean_of_defined
from monai_adversarial.metrics.organ_metric import OrganMetric
from monai_adversarial.utils.slabs import count_true
from monai_adversarial.utils.validation import check_positive

__all__ = ["OrganPresence"]


class OrganPresence(OrganMetric):
    """Organs of the label that the prediction misses, and predicted ones that the label lacks.

    ==================  ==================  ==========  ============
    organ in the label  in the prediction   missed      invented
    ==================  ==================  ==========  ============
    yes                 yes                 0           NaN: skipped
    yes                 no                  1           NaN: skipped
    no                  no                  NaN         0
    no                  yes                 NaN         1
    ==================  ==================  ==========  ============

    >>> import torch
    >>> from monai_adversarial.metrics import OrganPresence
    >>> metric = OrganPresence(["background", "liver", "spleen"])
    >>> prediction, label = torch.tensor([[[0, 0, 2, 2]]]), torch.tensor([[[1, 1, 0, 0]]])
    >>> _ = metric(prediction, label)
    >>> metric.aggregate()["missed_rate"], metric.aggregate()["invented_rate"], metric.cases()["missed_spleen"]
    (1.0, 1.0, [nan])

    Called with the prediction and the label that belongs to the same anatomy; ``spacing`` in mm is needed for
    ``minimum_ml`` where the prediction has no affine.

    Args:
        class_names, activation, classes, ignore_index: see :class:`OrganMetric`.
        minimum_ml: an organ counts as predicted from this volume on; 0 for a single voxel. The label's is never cut.

    Raises:
        ValueError: for segmentations that do not fit, and for ``minimum_ml`` where nothing says the voxel size.

    Source: textbook.

    Survey entry: M02 (own).
    """

    def __init__(
        self,
        class_names: Sequence[str] | Mapping[Any, str],
        activation: str = "softmax",
        classes: Sequence[int | str] | None = None,
        ignore_index: int | None = None,
        minimum_ml: float = 0.0,
    ) -> None:
        super().__init__(class_names, activation, classes, ignore_index)
        self.minimum_ml = check_positive("minimum_ml", minimum_ml, allow_zero=True)

    def _columns(self) -> tuple[str, ...]:
        return tuple(f"{kind}_{organ}" for kind in ("missed", "invented") for organ in self.organs.values())

    def rows(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, spacing: Any = None) -> torch.Tensor:
        """See the class."""
        prediction = self.checked("y_pred", y_pred)
        label = self.checked("y", y, prediction)
        valid = self.valid(label)
        found, true = (
            torch.stack([count_true(mask) for mask in self.masks(one, valid)], dim=1).cpu()
            for one in (prediction, label)
        )
        there = found > 0
        if self.minimum_ml > 0:
            milliliters = self.spacing(y_pred, spacing).prod(dim=1, keepdim=True) / 1000.0
            there = found * milliliters >= self.minimum_ml
        missed = torch.where(true > 0, (~there).double(), torch.nan)
        invented = torch.where(true > 0, torch.nan, there.double())
        return torch.cat([missed, invented], dim=1)

    def add(self, result: Any) -> torch.Tensor:
        """See :meth:`CaseMetric.add`."""
        spacing = result.bound.scene.require_spacing("minimum_ml") if self.minimum_ml > 0 else None
        return self(result.prediction, result.label, spacing=spacing)

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Rate of each column, and ``missed_rate`` and ``invented_rate`` over all organs of all cases."""
        found = super().aggregate()
        for kind in ("missed", "invented"):
            every = [value for organ in self.organs.values() for value in self.column(f"{kind}_{organ}").tolist()]
            found[f"{kind}_rate"] = mean_of_defined(every)
        return found
