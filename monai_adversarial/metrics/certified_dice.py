# SPDX-License-Identifier: Apache-2.0
"""Dice of a certified segmentation: as published, and the bounds that hold under any attack within the radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch

from monai_adversarial.metrics.certified_metric import CertifiedMetric
from monai_adversarial.metrics.organs import organ_names
from monai_adversarial.utils.plain import as_plain

__all__ = ["CertifiedDice", "CertifiedDiceMetric", "certified_dice", "certified_maps"]

#: of :class:`CertifiedDice`, what is kept of a case
_COLUMNS = ("lower_bound", "upper_bound", "abstentions_wrong")


class CertifiedDice(TypedDict):
    """Scores of one organ of one case, 0 to 1; NaN where nothing can be predicted and nothing is there.

    >>> from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case
    >>> from monai_adversarial.inferers import CertifiedSegmentationInferer
    >>> from monai_adversarial.metrics import certified_dice
    >>> model, image, label = example_case(16)
    >>> inferer = CertifiedSegmentationInferer(sigma=0.01, n0=2, n=60, alpha=0.05)
    >>> (case,) = certified_dice(inferer.certify(model.intensity(image), model.network), label, EXAMPLE_CLASSES)
    >>> sorted(case), sorted(case["liver"])[:3]
    (['gallbladder', 'lesion', 'liver'], ['abstained_elsewhere', 'abstained_in_organ', 'abstentions_wrong'])
    """

    abstentions_wrong: float
    lower_bound: float
    upper_bound: float
    reference_voxels: int
    certified_voxels: int
    abstained_in_organ: int
    abstained_elsewhere: int


def certified_dice(
    certified: Any, label: torch.Tensor, class_names: Sequence[str] | Mapping[Any, str]
) -> list[dict[str, CertifiedDice]]:
    """Dice of every organ of every case; the background is not scored.

    With T certified voxels of the organ that are right, P certified voxels of the organ, R voxels of the organ in the
    reference, and abstained voxels A inside and E outside the organ:

    ``abstentions_wrong`` = 2T / (P + R): an abstention misses its organ and invents none. This is the published form,
    and not a bound: an attacker may turn abstained voxels outside the organ into the organ.

    ``lower_bound`` = 2T / (P + R + E): the smallest Dice over everything that the abstained voxels may be. Giving an
    abstained voxel inside the organ to the organ adds 2 to the numerator and 1 to the denominator, which never lowers a
    Dice; giving it one outside adds 1 to the denominator, which never raises it; so the worst case is none of A and
    all of E. Each organ's bound is attained, their mean is a bound that may not be, since an abstained voxel has one
    class.

    ``upper_bound`` = 2(T + A) / (P + R + A): the largest Dice, by the same argument.

    Empty organs: NaN where the denominator is 0, as in ``score_segmentation``; so an organ that the reference lacks
    scores 0 as soon as a voxel is certified as, or (lower bound) may become, this organ.

    With the probability of the certificate, the Dice of the smoothed network lies between both bounds for every image
    within the certified radius.

    >>> from monai_adversarial.data.example import EXAMPLE_CLASSES, example_case
    >>> from monai_adversarial.inferers import CertifiedSegmentationInferer
    >>> from monai_adversarial.metrics import certified_dice
    >>> model, image, label = example_case(16)
    >>> inferer = CertifiedSegmentationInferer(sigma=0.01, n0=2, n=60, alpha=0.05)
    >>> (case,) = certified_dice(inferer.certify(model.intensity(image), model.network), label, EXAMPLE_CLASSES)
    >>> 0 <= case["liver"]["lower_bound"] <= case["liver"]["upper_bound"] <= 1
    True

    Args:
        certified: a ``CertifiedSegmentation``, or its prediction (batch, 1, spatial...), integers, -1 for abstention.
        label: class map (batch, 1, spatial...).
        class_names: background first (see ``organ_names``).

    Returns:
        ``{organ: CertifiedDice}`` per case, in the order of the batch.

    Raises:
        ValueError: for shapes that differ, several channels, fractions, or classes below -1 (prediction) or 0 (label).
    """
    names = organ_names(class_names)
    prediction, label = certified_maps(getattr(certified, "prediction", certified), label)
    other = max(names) + 1  # any class without a name
    rows = prediction.flatten(1).long().clamp(max=other) + 1
    columns = label.flatten(1).long().clamp(max=other)
    size = (other + 2) * (other + 1)
    cases = torch.arange(rows.shape[0], device=rows.device)[:, None] * size
    counted = torch.bincount((cases + rows * (other + 1) + columns).flatten(), minlength=len(cases) * size)
    tables = counted.view(-1, other + 2, other + 1).cpu()
    return [{name: _scores(table, index) for index, name in names.items()} for table in tables]


def certified_maps(prediction: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and label as plain tensors on one device, if they are class maps of the same grid.

    Raises:
        ValueError: for shapes that differ, several channels, fractions, or classes below -1 (prediction) or 0 (label).
    """
    prediction = as_plain(prediction)
    label = as_plain(label).to(prediction.device)
    if prediction.ndim < 3 or prediction.shape[1] != 1 or prediction.shape != label.shape:
        raise ValueError(
            "certified and label must be class maps of the same shape (batch, 1, spatial...), got "
            f"{tuple(prediction.shape)} and {tuple(label.shape)}: score a multi-label network channel by channel."
        )
    for name, values in (("certified", prediction), ("label", label)):
        if values.is_floating_point() and not bool((values == values.round()).all()):  # NaN as well
            raise ValueError(f"{name} must hold class indices (apply argmax first), got fractions or NaN.")
    if int(prediction.min()) < -1 or int(label.min()) < 0:
        raise ValueError(
            "certified must hold classes or -1 and label classes >= 0, got "
            f"{int(prediction.min())} and {int(label.min())} as the smallest."
        )
    return prediction, label


def _scores(table: torch.Tensor, index: int) -> CertifiedDice:
    """Scores from the counts (prediction + 1, label) of one case."""
    right = int(table[index + 1, index])
    predicted = int(table[index + 1].sum())
    reference = int(table[:, index].sum())
    inside = int(table[0, index])
    outside = int(table[0].sum()) - inside
    return CertifiedDice(
        abstentions_wrong=_ratio(2 * right, predicted + reference),
        lower_bound=_ratio(2 * right, predicted + reference + outside),
        upper_bound=_ratio(2 * (right + inside), predicted + reference + inside),
        reference_voxels=reference,
        certified_voxels=predicted,
        abstained_in_organ=inside,
        abstained_elsewhere=outside,
    )


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")


class CertifiedDiceMetric(CertifiedMetric):
    """:func:`certified_dice` of cases that come batch by batch, from all processes.

    ``aggregate`` gives ``{organ}_lower_bound``, ``{organ}_upper_bound`` and ``{organ}_abstentions_wrong``, means over
    the cases where they are defined.

    >>> import torch
    >>> from monai_adversarial.metrics import CertifiedDiceMetric
    >>> metric = CertifiedDiceMetric(["background", "liver"])
    >>> _ = metric(torch.tensor([[[1, -1, 0]]]), torch.tensor([[[1, 1, 0]]]))
    >>> _ = metric(torch.tensor([[[1, 1, 0]]]), torch.tensor([[[1, 1, 0]]]))
    >>> round(metric.aggregate()["liver_lower_bound"], 3), metric.cases()["liver_upper_bound"]
    (0.833, [1.0, 1.0])

    Args:
        class_names: see :func:`certified_dice`.

    Raises:
        ValueError: as :func:`certified_dice`, and for no data.

    Source: own.

    Survey entry: X16 (adapted).
    """

    def __init__(self, class_names: Sequence[str] | Mapping[Any, str]) -> None:
        super().__init__()
        self.class_names = class_names
        self.names = tuple(organ_names(class_names).values())
        self.columns = tuple(f"{name}_{column}" for name in self.names for column in _COLUMNS)

    def rows(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        scores = certified_dice(y_pred, self.label(y), self.class_names)
        rows = [[case[name][column] for name in self.names for column in _COLUMNS] for case in scores]  # type: ignore[literal-required]
        return torch.tensor(rows, dtype=torch.float64)
