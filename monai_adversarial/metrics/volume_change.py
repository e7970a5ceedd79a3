# SPDX-License-Identifier: Apache-2.0
"""How an attack changes the volume that is measured of each organ, in ml and percent."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.metrics.organ_metric import OrganMetric
from monai_adversarial.utils.slabs import count_true

__all__ = ["VolumeChange"]


class VolumeChange(OrganMetric):
    """Change of each organ's measured volume under attack, in ml and in percent of the clean measurement.

    ``{organ}_change_ml`` is the volume of the prediction under attack minus that of the clean prediction. Where labels
    of both anatomies are given, as of a geometric attack, what the anatomy itself changed is taken off.

    Empty organs: an organ that the clean prediction lacks has a change in ml and no percentage (NaN).

    >>> import torch
    >>> from monai_adversarial.metrics import VolumeChange
    >>> metric = VolumeChange(["background", "liver"])
    >>> clean, attacked = torch.zeros(1, 1, 10, 10, 10), torch.zeros(1, 1, 10, 10, 10)
    >>> clean[..., :4], attacked[..., :3] = 1, 1
    >>> _ = metric(attacked, clean, spacing=(1.0, 1.0, 5.0))
    >>> metric.aggregate()
    {'liver_change_ml': -0.5, 'liver_change_percent': -25.0}

    Called with the prediction under attack, the clean prediction, and ``spacing`` in mm where neither has an affine;
    ``label`` and ``clean_label`` belong to the attacked and the clean anatomy.

    Args:
        class_names, activation, classes, ignore_index: see :class:`OrganMetric`.

    Raises:
        ValueError: for segmentations that do not fit, and where nothing says the voxel size.

    Source: textbook.

    Survey entry: M02 (own).
    """

    def _columns(self) -> tuple[str, ...]:
        return tuple(f"{organ}_change_{unit}" for organ in self.organs.values() for unit in ("ml", "percent"))

    def rows(
        self,
        y_pred: torch.Tensor,
        y: torch.Tensor | None = None,
        spacing: Any = None,
        label: torch.Tensor | None = None,
        clean_label: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See the class."""
        if (label is None) != (clean_label is None):
            raise ValueError("label and clean_label must be given together, got one of them.")
        attacked = self.checked("y_pred", y_pred)
        clean = self.checked("y", y, attacked)
        has_affine = spacing is None and not hasattr(y_pred, "affine") and hasattr(y, "affine")
        size = self.spacing(y if has_affine else y_pred, spacing)  # type: ignore[arg-type]
        milliliters = size.prod(dim=1, keepdim=True) / 1000.0
        truth = None if label is None else self.checked("label", label, attacked)
        before = None if clean_label is None else self.checked("clean_label", clean_label, attacked)
        reference = self._volumes(clean, self.valid(before))
        change = self._volumes(attacked, self.valid(truth)) - reference
        if truth is not None and before is not None:
            change -= self._volumes(truth, self.valid(truth)) - self._volumes(before, self.valid(before))
        share = torch.where(reference > 0, 100.0 * change / reference, torch.nan)
        return torch.stack([change * milliliters, share], dim=2).flatten(1)

    def _volumes(self, segmentation: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Voxels (batch, organ), float64 on the CPU."""
        counts = [count_true(mask) for mask in self.masks(segmentation, valid)]
        return torch.stack(counts, dim=1).to("cpu", torch.float64)

    def add(self, result: Any) -> torch.Tensor:
        """See :meth:`CaseMetric.add`."""
        spacing = result.bound.scene.require_spacing("a volume in ml")
        return self(
            result.prediction,
            result.clean_prediction,
            spacing=spacing,
            label=result.label,
            clean_label=result.clean_label,
        )
