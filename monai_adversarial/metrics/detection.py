# SPDX-License-Identifier: Apache-2.0
"""How well a detector tells attacked images from clean ones, and what of an attack gets past it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.metrics import compute_average_precision, compute_roc_auc

from monai_adversarial.metrics.gathered_rows import GatheredRows
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_fraction

__all__ = ["AdversarialRisk", "DetectionMetric", "detection_scores"]

Values = torch.Tensor | Sequence[float] | Sequence[bool]


#: sensitivity at which the false positives are counted
SENSITIVITY = 0.95


def detection_scores(clean: Values, attacked: Values, false_positive_rate: float = 0.05) -> dict[str, float]:
    """Area under the ROC curve, average precision, sensitivity and false positives of a detector.

    >>> from monai_adversarial.metrics import detection_scores
    >>> detection_scores(clean=[0.1, 0.2, 0.3, 0.4], attacked=[0.25, 0.5, 0.6, 0.7], false_positive_rate=0.25)
    {'auroc': 0.875, 'aupr': 0.9166..., 'true_positive_rate': 0.75, 'false_positive_rate_at_95': 0.5}

    Args:
        clean: scores of clean images, (case,); higher is more suspicious.
        attacked: scores of attacked ones, (case,).
        false_positive_rate: at most this share of the clean images may be at or above the score from which on images
            are counted as found.

    Returns:
        ``auroc`` (ties count half), ``aupr`` (average precision, attacked images being the positive ones),
        ``true_positive_rate``, and ``false_positive_rate_at_95``: the share of the clean images that are at or above
        the score from which on at least 95 % of the attacked ones are.

    Raises:
        ValueError: for no scores, and for NaN.

    Source: textbook; both areas are those of MONAI.

    Survey entry: M08 (published).
    """
    rate = check_fraction("false_positive_rate", false_positive_rate)
    negative, positive = (_scores(name, values) for name, values in (("clean", clean), ("attacked", attacked)))
    y_pred = torch.cat([negative, positive])
    y = torch.cat([torch.zeros_like(negative), torch.ones_like(positive)])
    allowed = int(rate * len(negative) + 1e-9)
    least = positive.sort(descending=True).values[math.ceil(SENSITIVITY * len(positive) - 1e-9) - 1]
    limit = negative.sort(descending=True).values[allowed] if allowed < len(negative) else -torch.inf
    return {
        "auroc": float(np.asarray(compute_roc_auc(y_pred, y))),
        "aupr": float(np.asarray(compute_average_precision(y_pred, y))),
        "true_positive_rate": float((positive > limit).double().mean()),
        "false_positive_rate_at_95": float((negative >= least).double().mean()),
    }


def _scores(name: str, values: Values) -> torch.Tensor:
    found = as_plain(torch.as_tensor(values)).detach().double().flatten().cpu()
    if not len(found) or bool(found.isnan().any()):
        raise ValueError(f"{name} must hold at least one score and no NaN, got {found.tolist()[:4]}.")
    return found


def _column(name: str, values: Any) -> torch.Tensor:
    if isinstance(values, (list, tuple)):  # a decollated batch
        values = torch.stack([torch.as_tensor(value).reshape(-1) for value in values])
    column = as_plain(torch.as_tensor(values))
    if column.ndim == 1:
        column = column[:, None]
    if column.ndim != 2 or column.shape[1] != 1:
        raise ValueError(f"{name} must have shape (batch,) or (batch, 1), got {tuple(column.shape)}.")
    return column.double()


class DetectionMetric(GatheredRows):
    """:func:`detection_scores` of what comes batch by batch, from all processes.

    >>> import torch
    >>> from monai_adversarial.metrics import DetectionMetric
    >>> metric = DetectionMetric(false_positive_rate=0.5)
    >>> _ = metric(torch.tensor([0.1, 0.9]), torch.tensor([0, 1]))
    >>> _ = metric(torch.tensor([0.3, 0.2]), torch.tensor([0, 1]))
    >>> metric.aggregate()["auroc"]
    0.75

    Args:
        false_positive_rate: see :func:`detection_scores`.

    Raises:
        ValueError: for scores that are no column, labels other than 0 (clean) and 1 (attacked), and no data.

    Source: textbook.

    Survey entry: M08 (published).
    """

    row_shape = (2,)

    def __init__(self, false_positive_rate: float = 0.05) -> None:
        super().__init__()
        self.false_positive_rate = check_fraction("false_positive_rate", false_positive_rate)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        scores = _column("y_pred", y_pred)
        attacked = _column("y", y if y is not None else []).to(scores.device)
        if attacked.shape != scores.shape or not bool(((attacked == 0) | (attacked == 1)).all()):
            raise ValueError("y must say of each score whether its image is attacked, 0 or 1.")
        return torch.cat([scores, attacked], dim=1)

    def _compute_list(self, y_pred: Any, y: Any = None, **kwargs: Any) -> torch.Tensor:
        return self._compute_tensor(y_pred, y)

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The numbers of :func:`detection_scores` over everything so far."""
        data = self.get_buffer()
        if not len(data):
            raise ValueError("there are no scores yet: call the metric before aggregate.")
        attacked = data[:, 1] > 0
        return detection_scores(data[~attacked, 0], data[attacked, 0], self.false_positive_rate)


class AdversarialRisk(GatheredRows):
    """Share of images that are wrong and accepted: what an attack achieves although there is a detector.

    >>> import torch
    >>> from monai_adversarial.metrics import AdversarialRisk
    >>> risk = AdversarialRisk()
    >>> _ = risk(torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False]))
    >>> risk.aggregate()
    {'adversarial_risk': 0.25, 'wrong': 0.5, 'accepted': 0.5}

    Called with whether each attacked image is wrong (for a segmentation ``AttackResult.success``) and whether it is
    accepted (``Detector.accept``), each (batch,).

    Raises:
        ValueError: for values other than 0, 1 and booleans, for shapes that differ, and for no data.

    Source: Li et al., ISBI 2021, as the survey tells it; their exact definition was not read. Wrong
    means for a segmentation that its Dice fell below a share of the clean one.

    Survey entry: M03 (reconstruction).
    """

    row_shape = (2,)

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        wrong = _column("wrong", y_pred)
        accepted = _column("accepted", y if y is not None else []).to(wrong.device)
        both = torch.cat([wrong, accepted], dim=1) if wrong.shape == accepted.shape else None
        if both is None or not bool(((both == 0) | (both == 1)).all()):
            raise ValueError("wrong and accepted must be booleans of the same images, (batch,) each.")
        return both

    def _compute_list(self, y_pred: Any, y: Any = None, **kwargs: Any) -> torch.Tensor:
        return self._compute_tensor(y_pred, y)

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """``adversarial_risk``, and the shares that are ``wrong`` and ``accepted``."""
        data = self.get_buffer()
        if not len(data):
            raise ValueError("there are no images yet: call the metric before aggregate.")
        wrong, accepted = data[:, 0] > 0, data[:, 1] > 0
        return {
            "adversarial_risk": float((wrong & accepted).double().mean()),
            "wrong": float(wrong.double().mean()),
            "accepted": float(accepted.double().mean()),
        }
