# SPDX-License-Identifier: Apache-2.0
"""adv_lib: PGD and Auto-PGD for classifiers; ALMA-prox, ASMA and DAG for segmentation, without a budget."""

from __future__ import annotations

from collections.abc import Callable

import torch
from adv_lib.attacks import auto_pgd, pgd_linf
from adv_lib.attacks.segmentation import alma_prox, asma, dag

from benchmarks.peers.dense_loss import DenseLossClassifier
from benchmarks.peers.problem import ADAPTED, PeerAttack, Problem

__all__ = ["ATTACKS"]

BOTH = ("cross_entropy", "dice_ce")
MINIMAL = "takes the dense label as it is; has no budget, looks for the smallest change"


def _pgd(problem: Problem, passes: int) -> torch.Tensor:
    # It returns the last point that counts as adversarial, which is the last one at which it computed a gradient.
    classifier = DenseLossClassifier(problem, found=True)
    return pgd_linf(
        classifier,
        problem.image,
        classifier.labels(),
        problem.epsilon,
        steps=passes,
        random_init=False,
        absolute_step_size=problem.step,
    )


def _apgd(problem: Problem, passes: int) -> torch.Tensor:
    # apgd(best_loss=True) does not hand its number of steps on, and without best_loss it returns the last adversarial
    # point instead of the best one: the function behind it does both. The start is a pass of its own.
    classifier = DenseLossClassifier(problem)
    radius = torch.full((len(problem.image),), problem.epsilon, device=problem.image.device)
    steps = max(passes - 1, 1)
    torch.manual_seed(0)
    found = auto_pgd._apgd(
        classifier,
        problem.image,
        classifier.labels(),
        radius,
        norm=float("inf"),
        n_iter=steps,
        loss_function="ce",
    )
    return found[0]


def _minimal(attack: Callable[..., torch.Tensor], steps: str) -> Callable[[Problem, int], torch.Tensor]:
    def run(problem: Problem, passes: int) -> torch.Tensor:
        return attack(problem.network, problem.image, problem.label[:, 0], **{steps: passes})

    return run


ATTACKS = (
    PeerAttack("adv_lib PGD", _pgd, ADAPTED, losses=BOTH),
    PeerAttack("adv_lib APGD", _apgd, f"{ADAPTED}; the function behind apgd()", "adaptive", BOTH),
    PeerAttack("adv_lib ALMA-prox", _minimal(alma_prox, "num_steps"), MINIMAL, "minimal"),
    PeerAttack("adv_lib ASMA", _minimal(asma, "num_steps"), MINIMAL, "minimal"),
    PeerAttack("adv_lib DAG", _minimal(dag, "max_iter"), MINIMAL, "minimal"),
)
