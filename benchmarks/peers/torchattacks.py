# SPDX-License-Identifier: Apache-2.0
"""torchattacks: its PGD takes a dense label as it is, its Auto-PGD does not."""

from __future__ import annotations

import torch
from torchattacks import APGD, PGD

from benchmarks.peers.dense_loss import DenseLossClassifier
from benchmarks.peers.problem import ADAPTED, PeerAttack, Problem

__all__ = ["ATTACKS"]


def _pgd(problem: Problem, passes: int) -> torch.Tensor:
    attack = PGD(problem.network, eps=problem.epsilon, alpha=problem.step, steps=passes, random_start=False)
    return attack(problem.image, problem.label[:, 0])


def _apgd(problem: Problem, passes: int) -> torch.Tensor:
    # The start is a pass of its own. Images must be flat (batch, channel, height, width). "best_loss" returns the
    # point of the highest loss; without it only samples that changed their class are returned.
    classifier = DenseLossClassifier(problem, shape=tuple(problem.image.shape[1:]))
    attack = APGD(classifier, eps=problem.epsilon, steps=max(passes - 1, 1))
    flat = problem.image.flatten(2).unsqueeze(2)
    torch.manual_seed(attack.seed)
    return attack.perturb(flat, classifier.labels(), best_loss=True)[1].reshape(problem.image.shape)


ATTACKS = (
    PeerAttack("torchattacks PGD", _pgd, "takes the dense label as it is"),
    PeerAttack("torchattacks APGD", _apgd, ADAPTED, "adaptive", ("cross_entropy", "dice_ce")),
)
