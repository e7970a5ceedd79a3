# SPDX-License-Identifier: Apache-2.0
"""One exact binomial test per voxel, corrected for their number, without touching a voxel twice.

All voxels share the number of votes, so a p-value is one of n + 1 numbers, and what a correction needs to know about
the voxels is how many there are of each. Voxels with equal p-values are rejected together: if the strictest level
among them suffices for one, the looser ones suffice for the others.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.stats import binom

__all__ = ["CORRECTIONS", "binomial_tail", "copies_needed", "least_votes"]

CORRECTIONS = ("holm", "bonferroni")


def binomial_tail(copies: int, tau: float) -> np.ndarray:
    """Probabilities of k or more successes of ``copies`` with success probability ``tau``, for k = 0 to ``copies``.

    The k-th is the p-value of k votes for a class against the hypothesis that the class's probability is at most
    ``tau``; float64, from :py:data:`scipy.stats.binom`.
    """
    return binom.sf(np.arange(-1, copies), copies, tau)


def copies_needed(tests: int, tau: float, alpha: float) -> int:
    """Least number of copies whose unanimous vote passes the strictest of ``tests`` corrected tests."""
    if tests == 0:
        return 0
    copies = max(math.ceil(math.log(alpha / tests) / math.log(tau)) - 1, 1)
    while binom.sf(copies - 1, copies, tau) > alpha / tests:  # at most twice: the logarithms are rounded
        copies += 1
    return copies


def least_votes(
    votes: torch.Tensor, tested: torch.Tensor, tail: np.ndarray, alpha: float, correction: str = "holm"
) -> torch.Tensor:
    """Least votes per sample with which a voxel is certified, controlling the probability of any error at ``alpha``.

    Args:
        votes: (batch, ...), integers 0 to n.
        tested: boolean, shape of ``votes``: voxels whose hypotheses are tested, the family of their sample.
        tail: from :func:`binomial_tail`, n + 1 values.
        alpha: level for each sample's whole family.
        correction: ``"holm"`` (step-down; Holm 1979) or ``"bonferroni"``.

    Returns:
        int64 (batch,) on the device of ``votes``; n + 1 where nothing is certified.
    """
    batch, bins = votes.shape[0], len(tail)
    numbers = votes.flatten(1).long() + bins * torch.arange(batch, device=votes.device)[:, None]
    histogram = torch.bincount(numbers[tested.flatten(1)], minlength=batch * bins).view(batch, bins)
    tests = histogram.sum(dim=1, keepdim=True)
    p_values = torch.from_numpy(tail).to(votes.device)
    if correction == "bonferroni":
        remaining = tests
    else:
        # voxels whose p-value is not smaller: those with as many votes or fewer
        remaining = histogram.cumsum(dim=1)
    passed = p_values <= alpha / remaining.clamp(min=1).double()
    # step down: everything with more votes must have passed as well; a number that no voxel got fails only where the
    # next lower one that some voxel got fails, too
    kept = passed.flip(1).cumprod(dim=1).sum(dim=1)
    return bins - kept
