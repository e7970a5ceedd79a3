# SPDX-License-Identifier: Apache-2.0
"""How near a targeted attack came to the segmentation that it wanted."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.metrics.dice import class_dice
from monai_adversarial.metrics.organ_metric import OrganMetric

__all__ = ["TargetIoU"]


class TargetIoU(OrganMetric):
    """Intersection over union with the wanted segmentation, per organ and in the mean, under attack and before.

    Empty organs: one that neither the prediction nor the wanted segmentation has is left out (NaN). Where that leaves
    no organ, both are empty and the mean is 1, as in ``AttackResult.iou``.

    >>> import torch
    >>> from monai_adversarial.metrics import TargetIoU
    >>> metric = TargetIoU(["background", "liver"])
    >>> wanted, attacked = torch.tensor([[[1, 1, 0, 0]]]), torch.tensor([[[1, 0, 0, 0]]])
    >>> _ = metric(attacked, wanted, clean=torch.zeros_like(wanted))
    >>> {name: round(value, 6) for name, value in metric.aggregate().items()}
    {'liver': 0.5, 'mean': 0.5, 'clean_liver': 0.0, 'clean_mean': 0.0}

    Called with the prediction under attack, the wanted segmentation, and ``clean``, the clean prediction.

    Args:
        class_names, activation, classes, ignore_index: see :class:`OrganMetric`.

    Raises:
        ValueError: for segmentations that do not fit, and for the result of an untargeted attack.

    Source: Ozbulak et al., MICCAI 2019, measure the success of wanted masks by IoU.

    Survey entry: M02 (adapted).
    """

    def _columns(self) -> tuple[str, ...]:
        one = (*self.organs.values(), "mean")
        return (*one, *(f"clean_{name}" for name in one))

    def rows(
        self, y_pred: torch.Tensor, y: torch.Tensor | None = None, clean: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See the class."""
        attacked = self.checked("y_pred", y_pred)
        wanted = self.checked("y", y, attacked)
        return torch.cat([self._iou(one, wanted) for one in (attacked, self.checked("clean", clean, attacked))], dim=1)

    def _iou(self, prediction: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        dice = class_dice(
            prediction, wanted, list(self.organs), self.network_classes, self.activation, self.valid(wanted)
        )
        dice = dice.to("cpu", torch.float64)
        overlap = dice / (2 - dice)
        return torch.cat([overlap, overlap.nanmean(dim=1, keepdim=True).nan_to_num(1.0)], dim=1)

    def add(self, result: Any) -> torch.Tensor:
        """See :meth:`CaseMetric.add`."""
        if result.iou is None:
            raise ValueError("result must be of a targeted attack: an untargeted one wants no segmentation.")
        return self(result.prediction, result.label, clean=result.clean_prediction)
