# SPDX-License-Identifier: Apache-2.0
"""Data that were changed so that a method looks better: how much is possible, and what a reviewer can see."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, TypedDict

import torch

from monai_adversarial.metrics.case_metric import CaseMetric, as_column
from monai_adversarial.metrics.dice import mean_of_defined
from monai_adversarial.metrics.paired import holm, paired_test
from monai_adversarial.utils.plain import as_plain

__all__ = ["AdvantageCheck", "EnhancementGain", "check_advantages"]


class EnhancementGain(CaseMetric):
    """By how much a small change of the data raises a network's score, and how well the change hides.

    The attack is a targeted one whose wanted segmentation is the truth. Its images look like the data, and a
    correlation with them near 1, which a reader may take for proof that nothing was changed, proves nothing.

    >>> from monai_adversarial.attacks import PGD
    >>> from monai_adversarial.data.example import example_case
    >>> from monai_adversarial.metrics import EnhancementGain
    >>> metric = EnhancementGain()
    >>> _ = metric.add(PGD(8, units="HU", steps=5, targeted=True)(*example_case(16)))
    >>> found = metric.aggregate()
    >>> found["gain"] > 0, found["correlation"] > 0.7
    (True, True)

    Called with the scores on the changed data, those on the original data, and ``correlation``, each (batch,).

    Raises:
        ValueError: for scores that are no column, and the result of an untargeted attack.

    Source: Rosenblatt et al., "Enhancement attacks in biomedical machine learning", 2023, from the abstract.

    Survey entry: X22 (reconstruction).
    """

    columns = ("score", "enhanced_score", "gain", "correlation")

    def rows(
        self, y_pred: torch.Tensor, y: torch.Tensor | None = None, correlation: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See the class."""
        enhanced = as_column("y_pred", y_pred)
        score, similar = as_column("y", y, enhanced), as_column("correlation", correlation, enhanced)
        return torch.stack([score, enhanced, enhanced - score, similar], dim=1)

    def add(self, result: Any) -> torch.Tensor:
        """Count the cases of a targeted attack whose wanted segmentation is the truth.

        Args:
            result: an ``AttackResult``.

        Returns:
            The rows, (batch, columns).
        """
        if result.iou is None:
            raise ValueError("result must be of an attack with targeted=True whose label is the truth.")
        changed = as_plain(torch.as_tensor(result.adversarial))
        if result.image_channels is not None:
            changed = changed[:, list(result.image_channels)]
        similar = _correlation(changed.to(result.image), result.image)
        return self(result.adversarial_score, result.clean_score, correlation=similar)


def _correlation(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of the voxels of each sample, (batch,); NaN for an image without contrast."""
    first, second = (image.detach().double().flatten(1) for image in (one, other))
    first, second = (values - values.mean(dim=1, keepdim=True) for values in (first, second))
    return (first * second).sum(dim=1) / (first.norm(dim=1) * second.norm(dim=1))


class AdvantageCheck(TypedDict):
    """How one method's advantage over another changes from reported to recomputed scores.

    ``reported`` and ``recomputed`` are mean advantages of ``first`` over ``second``, ``flips`` says that their signs
    differ, ``p_holm`` is of the change of the advantage over ``n`` patients, corrected for all pairs of methods.

    >>> from monai_adversarial.metrics import check_advantages
    >>> scores = {"ours": {"anna": 0.5}, "theirs": {"anna": 0.25}}
    >>> sorted(check_advantages(scores, scores)[0])
    ['first', 'flips', 'n', 'p_holm', 'recomputed', 'reported', 'second']
    """

    first: str
    second: str
    n: int
    reported: float
    recomputed: float
    flips: bool
    p_holm: float


def check_advantages(
    reported: Mapping[str, Mapping[str, float]],
    recomputed: Mapping[str, Mapping[str, float]],
    method: str = "wilcoxon",
) -> list[AdvantageCheck]:
    """What a reviewer can check: do methods compare on the original data as they do on the submitted data?

    The reviewer runs the submitted networks on the data from their source and hands over both scores. A change of all
    methods alike, as by another preprocessing, is no sign; a change of the advantage of one over another is. It says
    that the data differ in favor of a method, not why.

    >>> from monai_adversarial.metrics import check_advantages
    >>> patients = [str(number) for number in range(8)]
    >>> reported = {"ours": {p: 0.9 + 0.001 * int(p) for p in patients}, "theirs": dict.fromkeys(patients, 0.7)}
    >>> recomputed = {"ours": dict.fromkeys(patients, 0.6), "theirs": dict.fromkeys(patients, 0.7)}
    >>> (row,) = check_advantages(reported, recomputed)
    >>> row["flips"], row["p_holm"]
    (True, 0.0078125)

    Args:
        reported: method -> patient -> score on the submitted data.
        recomputed: the same on the original data.
        method: of the test; see :func:`paired_test`.

    Returns:
        One row per pair of methods; patients without all four scores are left out.

    Raises:
        ValueError: for fewer than two methods, and different methods.

    Source: ours, for the attack of Rosenblatt et al. 2023.

    Survey entry: X22 (reconstruction).
    """
    if len(reported) < 2 or set(reported) != set(recomputed):
        raise ValueError(
            f"reported and recomputed must hold the same two or more methods, got {sorted(reported)} and "
            f"{sorted(recomputed)}."
        )
    pairs = list(itertools.combinations(reported, 2))
    found = []
    for one, other in pairs:
        before, after = (_difference(scores[one], scores[other]) for scores in (reported, recomputed))
        n, change, p = paired_test(before, after, method)
        both = [value for patient, value in before.items() if not math.isnan(value + after.get(patient, math.nan))]
        found.append((n, mean_of_defined(both), change, p))
    corrected = holm([p for *_, p in found])
    return [
        AdvantageCheck(
            first=one,
            second=other,
            n=n,
            reported=advantage,
            recomputed=advantage - change,
            flips=advantage * (advantage - change) < 0,
            p_holm=p,
        )
        for (one, other), (n, advantage, change, _), p in zip(pairs, found, corrected, strict=True)
    ]


def _difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {patient: float(one[patient]) - float(other[patient]) for patient in one if patient in other}
