# SPDX-License-Identifier: Apache-2.0
"""What kind of error an attack makes of each organ: missed voxels, invented voxels, surfaces apart."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import SurfaceDistanceMetric

from monai_adversarial.metrics.organ_metric import OrganMetric
from monai_adversarial.utils.slabs import count_true

__all__ = ["OrganErrors"]

NUMBERS = ("precision", "recall", "missed_ml", "invented_ml", "surface_mm")


class OrganErrors(OrganMetric):
    """Precision, recall, missed and invented milliliters and the average surface distance of each organ.

    Columns are ``{organ}_...`` under attack, and ``{organ}_clean_...`` where the clean prediction is given, NaN
    elsewhere. ``precision`` is the share of the prediction that is right, ``recall`` the share of the organ that is
    found; ``missed_ml`` are its false negatives, ``invented_ml`` its false positives; ``surface_mm`` is the mean of the
    distances from each surface to the other one (average symmetric surface distance).

    Empty organs: no precision without a prediction, no recall without a reference, no distance without both (NaN).

    >>> import torch
    >>> from monai_adversarial.metrics import OrganErrors
    >>> label, attacked = torch.zeros(1, 1, 10, 10, 10), torch.zeros(1, 1, 10, 10, 10)
    >>> label[..., 2:6], attacked[..., 3:5] = 1, 1
    >>> metric = OrganErrors(["background", "liver"])
    >>> _ = metric(attacked, label, spacing=(1.0, 1.0, 5.0))
    >>> found = metric.aggregate()
    >>> found["liver_precision"], found["liver_recall"], found["liver_missed_ml"], found["liver_invented_ml"]
    (1.0, 0.5, 1.0, 0.0)

    Called with the prediction under attack, the label, and ``spacing`` in mm where neither has an affine; ``clean`` is
    the clean prediction and ``clean_label`` the label of the clean anatomy, where that moved.

    Args:
        class_names, activation, classes, ignore_index: see :class:`OrganMetric`.

    Raises:
        ValueError: for segmentations that do not fit, and where nothing says the voxel size.

    Source: textbook; surface distances are those of MONAI.

    Survey entry: M02 (own).
    """

    def _columns(self) -> tuple[str, ...]:
        return tuple(
            f"{organ}_{when}{number}" for organ in self.organs.values() for when in ("", "clean_") for number in NUMBERS
        )

    def rows(
        self,
        y_pred: torch.Tensor,
        y: torch.Tensor | None = None,
        spacing: Any = None,
        clean: torch.Tensor | None = None,
        clean_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See the class."""
        attacked = self.checked("y_pred", y_pred)
        label = self.checked("y", y, attacked)
        has_affine = spacing is None and not hasattr(y_pred, "affine") and hasattr(y, "affine")
        size = self.spacing(y if has_affine else y_pred, spacing)  # type: ignore[arg-type]
        after = self._numbers(attacked, label, size)
        if clean is None:
            before = torch.full_like(after, torch.nan)
        else:
            truth = label if clean_label is None else self.checked("clean_label", clean_label, attacked)
            before = self._numbers(self.checked("clean", clean, attacked), truth, size)
        return torch.stack([after, before], dim=2).flatten(1)

    def _numbers(self, prediction: torch.Tensor, label: torch.Tensor, spacing: torch.Tensor) -> torch.Tensor:
        """(batch, organ, number), float64 on the CPU."""
        valid = self.valid(label)
        milliliters = spacing.prod(dim=1).to("cpu", torch.float64) / 1000.0
        columns = []
        for found, truth in zip(self.masks(prediction, valid), self.masks(label, valid), strict=True):
            right, predicted, reference = (
                count_true(mask).to("cpu", torch.float64) for mask in (found & truth, found, truth)
            )
            numbers = [
                right / predicted,  # NaN for 0 / 0
                right / reference,
                (reference - right) * milliliters,
                (predicted - right) * milliliters,
                torch.tensor(
                    [_surface_distance(*pair) for pair in zip(found, truth, spacing.tolist(), strict=True)],
                    dtype=torch.float64,
                ),
            ]
            columns.append(torch.stack(numbers, dim=1))
        return torch.stack(columns, dim=1)

    def add(self, result: Any) -> torch.Tensor:
        """See :meth:`CaseMetric.add`."""
        spacing = result.bound.scene.require_spacing("a volume in ml")
        return self(
            result.prediction,
            result.label,
            spacing=spacing,
            clean=result.clean_prediction,
            clean_label=result.clean_label,
        )


def _surface_distance(found: torch.Tensor, truth: torch.Tensor, spacing: list[float]) -> float:
    """Of one mask (1, spatial...) in mm; NaN where one of the two is empty."""
    if not (bool(found.any()) and bool(truth.any())):
        return float("nan")
    box = [slice(int(part.min()), int(part.max()) + 1) for part in (found | truth)[0].nonzero().T]
    one, other = (mask[(None, slice(None), *box)].float().cpu() for mask in (found, truth))
    distance = SurfaceDistanceMetric(include_background=True, symmetric=True)
    return float(torch.as_tensor(distance(one, other, spacing=spacing)))
