# SPDX-License-Identifier: Apache-2.0
"""Auto-PGD of its authors (Croce and Hein 2020), along the dense loss."""

from __future__ import annotations

import torch
from autoattack.autopgd_base import APGDAttack

from benchmarks.peers.dense_loss import DenseLossClassifier
from benchmarks.peers.problem import ADAPTED, PeerAttack, Problem

__all__ = ["ATTACKS", "best_point"]


def best_point(problem: Problem, steps: int, start: torch.Tensor | None = None) -> torch.Tensor:
    """The point of the highest loss after ``steps`` steps, one gradient more than steps.

    Args:
        problem: what is attacked.
        steps: moves.
        start: first point; None for a random one.
    """
    classifier = DenseLossClassifier(problem)
    attack = APGDAttack(classifier, n_iter=steps, eps=problem.epsilon)
    attack.init_hyperparam(problem.image)
    torch.manual_seed(0)
    best: torch.Tensor = attack.attack_single_run(problem.image, classifier.labels(), start)[0]
    return best.detach()


def _apgd(problem: Problem, passes: int) -> torch.Tensor:
    return best_point(problem, max(passes - 1, 1))  # the start is a pass of its own


ATTACKS = (PeerAttack("autoattack APGD", _apgd, ADAPTED, "adaptive", ("cross_entropy", "dice_ce")),)
