# SPDX-License-Identifier: Apache-2.0
"""Binomial tests that look at the votes several times and stop as soon as the outcome is known.

The level is split over the looks: a p-value at a look with share w counts as p / w. The smallest over the looks is
again a p-value, since the probability that any of them is below its share is at most the sum. Which copies are still
needed then follows from the outcome that is certain. Stopping changes no result.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from monai_adversarial.inferers.voxel_tests import binomial_tail
from monai_adversarial.utils.validation import check_count

__all__ = ["SequentialTest", "check_looks"]


def check_looks(looks: int | Sequence[int] | None, copies: int) -> tuple[int, ...]:
    """Numbers of copies after which the votes are looked at, increasing, the last being ``copies``.

    Raises:
        ValueError: for something else than a count up to ``copies`` or such numbers.
    """
    if looks is None:
        return (copies,)
    if isinstance(looks, (list, tuple)):
        found = tuple(check_count("looks", look) for look in looks)
        if not found or found[-1] != copies or any(a >= b for a, b in zip(found, found[1:], strict=False)):
            raise ValueError(f"looks must increase and end at n={copies}, got {list(looks)}.")
        return found
    parts = check_count("looks", looks)  # type: ignore[arg-type]
    if parts > copies:
        raise ValueError(f"looks must be at most n={copies}, got {looks}.")
    return tuple(copies * part // parts for part in range(1, parts + 1))


class SequentialTest:
    """The test of one family of voxels.

    Evidence is the rank of a voxel's p-value: an integer that indexes ``p_values``, higher for stronger evidence. With
    one look it says the same as the number of votes.

    Args:
        looks: from :func:`check_looks`.
        tau: probability that must be exceeded.
        alpha: level of the family.
        tests: number of its hypotheses. Only looks at which a unanimous vote can pass get a share of the level, equal
            ones; this number must therefore be known before the first vote.
        correction: ``"holm"`` or ``"bonferroni"``.
    """

    def __init__(self, looks: Sequence[int], tau: float, alpha: float, tests: int, correction: str = "holm") -> None:
        self.looks, self.alpha, self.tests, self.correction = tuple(looks), alpha, max(tests, 1), correction
        used = next((m for m in range(len(looks), 1, -1) if tau ** looks[-m] * m <= alpha / self.tests), 1)
        shares = [0.0] * (len(looks) - used) + [1.0 / used] * used
        tables = [
            np.minimum(binomial_tail(copies, tau) / share, 1.0) if share else np.ones(copies + 1)
            for copies, share in zip(looks, shares, strict=True)
        ]
        ascending, ranks = np.unique(np.concatenate(tables), return_inverse=True)
        self.p_values: np.ndarray = ascending[::-1].copy()
        ranks = len(ascending) - 1 - ranks.reshape(-1)
        splits = np.split(ranks, np.cumsum([len(table) for table in tables])[:-1])
        self._ranks = [torch.from_numpy(part.astype(np.int32)) for part in splits]

    def evidence(self, look: int, votes: torch.Tensor) -> torch.Tensor:
        """Ranks of votes at a look, int32."""
        return self._ranks[look].to(votes.device)[votes.long()]

    def reachable(self, look: int, votes: torch.Tensor) -> torch.Tensor:
        """Highest ranks that votes at a look may still get at later ones, int32; 0 after the last look."""
        now = self.looks[look]
        best = torch.zeros(now + 1, dtype=torch.int32)
        for later in range(look + 1, len(self.looks)):
            best = torch.maximum(best, self._ranks[later][torch.arange(now + 1) + self.looks[later] - now])
        return best.to(votes.device)[votes.long()]

    @property
    def certain(self) -> int:
        """Least rank that passes whatever the other voxels do; one above the last where there is none."""
        return self._least(self.tests)

    def hopeless(self, best: torch.Tensor) -> int:
        """Least rank that may still pass, when ``best`` are the highest ranks that the family's voxels may get.

        Voxels that never pass are never removed from Holm's family, so that others have to pass beside them; which may
        make more of them hopeless, until nothing changes.
        """
        if self.correction == "bonferroni":
            return self._least(self.tests)
        below = torch.bincount(best.long(), minlength=len(self.p_values)).cumsum(0).cpu()
        dead, least = 0, 0
        while True:
            least = self._least(dead + 1)
            now = int(below[least - 1]) if least else 0
            if now == dead:
                return least
            dead = now

    def _least(self, remaining: int) -> int:
        return int(np.searchsorted(-self.p_values, -self.alpha / remaining, side="left"))
