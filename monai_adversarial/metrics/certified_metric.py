# SPDX-License-Identifier: Apache-2.0
"""What the metrics of certified segmentations have in common."""

from __future__ import annotations

from typing import Any

import torch

from monai_adversarial.metrics.case_metric import CaseMetric

__all__ = ["CertifiedMetric"]


class CertifiedMetric(CaseMetric):
    """A :class:`CaseMetric` that is called with a certificate, or with its map of certified classes.

    >>> import torch
    >>> from monai_adversarial.metrics import CertifiedDiceMetric
    >>> from monai_adversarial.metrics.certified_metric import CertifiedMetric
    >>> metric = CertifiedDiceMetric(["background", "liver"])
    >>> isinstance(metric, CertifiedMetric), metric(torch.tensor([[[1, -1]]]), torch.tensor([[[1, 1]]])).shape
    (True, torch.Size([1, 3]))
    """

    def __call__(self, y_pred: Any, y: Any = None, **options: Any) -> torch.Tensor:
        """Count a batch, or the cases of a decollated one.

        Args:
            y_pred: a ``CertifiedSegmentation``, or what it holds as integers (batch, channel, spatial...), -1 for
                abstention; a list of (channel, spatial...) of a decollated batch.
            y: class maps (batch, 1, spatial...), or a list.
            options: none.

        Returns:
            The rows, (batch, columns).
        """
        return super().__call__(self.maps(y_pred), y, **options)

    def maps(self, certified: Any) -> Any:
        """What is scored of a certificate."""
        return getattr(certified, "prediction", certified)

    @staticmethod
    def label(y: Any) -> torch.Tensor:
        """The label, or ValueError."""
        if not isinstance(y, torch.Tensor):
            raise ValueError(f"y must be the label, a class map like the prediction, got {type(y).__name__}.")
        return y
