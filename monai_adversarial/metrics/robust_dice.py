# SPDX-License-Identifier: Apache-2.0
"""Clean and robust scores of the same cases, and what follows from the pair: success rate, gap, worst case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from monai.utils import evenly_divisible_all_gather

from monai_adversarial.metrics.dice import mean_of_defined
from monai_adversarial.metrics.success import success

__all__ = ["RobustDice"]

#: Dice by which two scores of one clean image may differ where sums are not exact
SAME = 0.02


@dataclass(frozen=True)
class RobustDice:
    """Dice of the same cases without and with an attack; of a classifier its accuracy.

    The row of an image with exclusive classes holds 1 or 0 in the column of its true class and NaN elsewhere. So the
    mean of a column is the sensitivity to a class, and that of a row says whether the image is right.

    >>> import torch
    >>> from monai_adversarial.metrics import RobustDice
    >>> clean = torch.tensor([[0.9, 0.8], [0.9, 0.7]], dtype=torch.float64)
    >>> robust = torch.tensor([[0.2, 0.1], [0.9, 0.6]], dtype=torch.float64)
    >>> found = RobustDice(("liver", "spleen"), clean, robust)
    >>> {name: round(value, 3) for name, value in found.metrics("pgd").items() if "success" in name or "gap" in name}
    {'pgd_success_rate': 0.5, 'pgd_gap': 0.375}

    Args:
        organs: names, in the order of the columns.
        clean: (case, organ), float64 on the CPU; NaN where it is not defined or was not measured.
        robust: the same under attack.
        success_threshold: an attack succeeds where the mean Dice falls below this fraction of the clean one.
        acceptable_dice: only cases whose clean mean Dice is above this count in the success rate.
        metric: ``"dice"`` or ``"accuracy"``: what the scores are called.

    Source: textbook; the worst attack is chosen per case.

    Survey entry: M01 (own).
    """

    organs: tuple[str, ...]
    clean: torch.Tensor
    robust: torch.Tensor
    success_threshold: float = 0.5
    acceptable_dice: float = 0.0
    metric: str = "dice"

    @property
    def mean_name(self) -> str:
        """What the mean over the cases is called: ``"mean_dice"`` or ``"accuracy"``."""
        return "mean_dice" if self.metric == "dice" else self.metric

    def success(self) -> torch.Tensor:
        """1 where the attack succeeded and 0 where not, NaN for cases that were not acceptable before, (case,)."""
        clean, robust = self.clean.nanmean(dim=1), self.robust.nanmean(dim=1)
        counts = (clean > self.acceptable_dice) & ~robust.isnan()
        succeeded = torch.as_tensor(success(clean, robust, self.success_threshold)).to(clean)
        return torch.where(counts, succeeded, torch.nan)

    def metrics(self, name: str) -> dict[str, float]:
        """Means over the cases, as ``engine.state.metrics`` holds them.

        Returns:
            ``{name}_mean_dice``, ``{name}_dice_{organ}``, ``{name}_clean_dice_{organ}``, ``{name}_success_rate``,
            ``{name}_clean_mean_dice`` and ``{name}_gap`` (clean minus robust mean Dice); of a classifier
            ``{name}_accuracy``, ``{name}_accuracy_{class}``, ``{name}_clean_accuracy_{class}``,
            ``{name}_success_rate``, ``{name}_clean_accuracy`` and ``{name}_gap``.
        """
        clean, robust = (mean_of_defined(dice.nanmean(dim=1).tolist()) for dice in (self.clean, self.robust))
        found = {f"{name}_{self.mean_name}": robust}
        for column, organ in enumerate(self.organs):
            found[f"{name}_{self.metric}_{organ}"] = mean_of_defined(self.robust[:, column].tolist())
            found[f"{name}_clean_{self.metric}_{organ}"] = mean_of_defined(self.clean[:, column].tolist())
        found[f"{name}_success_rate"] = mean_of_defined(self.success().tolist())
        found[f"{name}_gap"] = clean - robust
        found[f"{name}_clean_{self.mean_name}"] = clean
        return found

    def details(self, name: str) -> dict[str, torch.Tensor]:
        """Values of every case, (case, organ) or (case, 1), as ``engine.state.metric_details`` holds them."""
        gap = self.clean.nanmean(dim=1, keepdim=True) - self.robust.nanmean(dim=1, keepdim=True)
        return {
            f"{name}_{self.mean_name}": self.robust,
            f"{name}_clean_{self.mean_name}": self.clean,
            f"{name}_success_rate": self.success()[:, None],
            f"{name}_gap": gap,
        }

    def gathered(self) -> RobustDice:
        """The cases of all ranks, in the order of the ranks."""
        both = evenly_divisible_all_gather(torch.cat([self.clean, self.robust], dim=1), concat=True)
        clean, robust = both.split(len(self.organs), dim=1)
        return replace(self, clean=clean, robust=robust)

    @staticmethod
    def worst(several: Sequence[RobustDice]) -> RobustDice:
        """Per case the attack that left the lowest mean Dice: all organs of a case are those of one attacked image.

        Args:
            several: scores of the same cases and organs under different attacks.

        Raises:
            ValueError: when the cases, organs or clean scores differ.
        """
        first = several[0]
        for other in several[1:]:
            if other.organs != first.organs or other.robust.shape != first.robust.shape:
                raise ValueError(
                    "the worst case needs the same cases and organs under every attack, got "
                    f"{[(scores.robust.shape[0], scores.organs) for scores in several]}."
                )
            if not torch.allclose(other.clean, first.clean, rtol=0.0, atol=SAME, equal_nan=True):
                raise ValueError(
                    "the worst case needs the same clean scores under every attack, which are scored in another way "
                    f"(postprocessing, label, region of interest): their means are {float(first.clean.nanmean()):.3f} "
                    f"and {float(other.clean.nanmean()):.3f}."
                )
        robust = torch.stack([scores.robust for scores in several])  # attack, case, organ
        # A case without any organ under one attack may have an invented one, Dice 0, under another.
        worst = robust.nanmean(dim=2).nan_to_num(nan=torch.inf).argmin(dim=0)
        chosen = robust[worst, torch.arange(robust.shape[1])]
        return replace(first, robust=chosen)
