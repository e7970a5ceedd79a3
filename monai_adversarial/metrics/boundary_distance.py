# SPDX-License-Identifier: Apache-2.0
"""How far the decision boundary is: the smallest change that succeeds, over the cases."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from monai_adversarial.metrics.case_metric import CaseMetric, as_column
from monai_adversarial.utils.plain import as_plain
from monai_adversarial.utils.validation import check_positive

__all__ = ["BoundaryDistance", "local_lipschitz"]


class BoundaryDistance(CaseMetric):
    """Smallest norm with which each case was attacked: median, quartiles, and the share of cases beyond budgets.

    A case that no attack broke has an infinite distance, so that there is a median but no mean; the median is infinite
    where less than half of the cases were broken. Every distance is an upper bound, which a better attack may lower.

    >>> import torch
    >>> from monai_adversarial.metrics import BoundaryDistance
    >>> metric = BoundaryDistance(budgets=[2.0])
    >>> _ = metric(torch.tensor([1.0, 3.0, torch.inf]))
    >>> metric.aggregate()["median"], metric.aggregate()["success_rate"], metric.aggregate()["robust_at_2"]
    (3.0, 0.666..., 0.666...)

    Called with the distances (batch,). ``add`` takes the result of a minimal-norm attack, or a list of results of the
    same batch under several attacks, of which each case's smallest distance counts.

    Args:
        budgets: ``robust_at_{budget}`` is the share of the cases whose distance is larger.

    Raises:
        ValueError: for NaN and negative distances, results of attacks with a budget, and other norms or units than
            those of the results before.

    Source: the median distance is how minimal-norm attacks are compared, for example by Rony et al., CVPR 2019.

    Survey entry: M07 (published).
    """

    columns = ("distance",)

    def __init__(self, budgets: Sequence[float] = ()) -> None:
        super().__init__()
        self.budgets = tuple(check_positive("budgets", budget) for budget in budgets)
        self.unit: str | None = None

    def reset(self) -> None:
        """Forget all cases, and the norm and unit that they had."""
        super().reset()
        self.unit = None

    def rows(self, y_pred: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        distance = as_column("y_pred", y_pred)
        if not bool((distance >= 0).all()):
            raise ValueError(
                f"y_pred must hold distances >= 0 (infinite without success), got {distance.tolist()[:4]}."
            )
        return distance[:, None]

    def add(self, result: Any) -> torch.Tensor:
        """See the class."""
        results = list(result) if isinstance(result, (list, tuple)) else [result]
        for one in results:
            if not hasattr(one, "boundary_distance"):
                raise ValueError(
                    "result must be of a minimal-norm attack such as FMN or DDN: an attack with a budget does not look "
                    f"for the smallest change, got {type(one).__name__}."
                )
            unit = f"{one.norm} norm in {one.smallest_norm.units}"
            if self.unit is not None and unit != self.unit:
                raise ValueError(f"result must have the norm and units of the others, {self.unit}, got {unit}.")
            self.unit = unit
        return self(torch.stack([one.boundary_distance for one in results]).amin(dim=0))

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """``median``, ``lower_quartile``, ``upper_quartile``, ``success_rate`` and the shares beyond the budgets."""
        known = sorted(value for value in self.column("distance").tolist() if not math.isnan(value))
        if not known:
            return dict.fromkeys(self._names(), math.nan)
        count = len(known)
        beyond = [sum(value > budget for value in known) / count for budget in self.budgets]
        numbers = (
            statistics.median(known),
            known[math.ceil(0.25 * count) - 1],
            known[math.ceil(0.75 * count) - 1],
            sum(math.isfinite(value) for value in known) / count,
            *beyond,
        )
        return dict(zip(self._names(), numbers, strict=True))

    def _names(self) -> tuple[str, ...]:
        first = ("median", "lower_quartile", "upper_quartile", "success_rate")
        return (*first, *(f"robust_at_{budget:g}" for budget in self.budgets))


def local_lipschitz(
    clean: torch.Tensor, changed: torch.Tensor, clean_output: torch.Tensor, output: torch.Tensor
) -> torch.Tensor:
    """Change of a network's output for each unit of change of its image, both in the Euclidean norm, (batch,).

    Any pair of images gives a lower bound of the local Lipschitz constant; that of an attack is a large one.

    >>> import torch
    >>> from monai_adversarial.metrics import local_lipschitz
    >>> image = torch.zeros(1, 1, 4)
    >>> local_lipschitz(image, image + 1, 3 * image, 3 * (image + 1))
    tensor([3.], dtype=torch.float64)

    Args:
        clean: images (batch, ...).
        changed: the same, changed.
        clean_output: of the network, (batch, ...), for example logits.
        output: for the changed images.

    Returns:
        NaN where the image did not change.

    Raises:
        ValueError: for shapes that differ.

    Source: textbook.

    Survey entry: M07 (published).
    """
    for name, one, other in (("changed", changed, clean), ("output", output, clean_output)):
        if one.shape != other.shape:
            raise ValueError(
                f"{name} must have the shape {tuple(other.shape)} of the clean one, got {tuple(one.shape)}."
            )
    step, answer = (
        (as_plain(one).detach().double() - as_plain(other).detach().double()).flatten(1).norm(dim=1)
        for one, other in ((changed, clean), (output, clean_output))
    )
    return torch.where(step > 0, answer / step, torch.nan)
