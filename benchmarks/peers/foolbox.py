# SPDX-License-Identifier: Apache-2.0
"""Foolbox: L-infinity PGD."""

from __future__ import annotations

import torch
from foolbox import PyTorchModel
from foolbox.attacks import LinfProjectedGradientDescentAttack

from benchmarks.peers.dense_loss import DenseLossClassifier
from benchmarks.peers.problem import ADAPTED, PeerAttack, Problem

__all__ = ["ATTACKS"]


def _pgd(problem: Problem, passes: int) -> torch.Tensor:
    classifier = DenseLossClassifier(problem)
    model = PyTorchModel(classifier, bounds=(0, 1), device=problem.image.device)
    attack = LinfProjectedGradientDescentAttack(abs_stepsize=problem.step, steps=passes, random_start=False)
    return attack(model, problem.image, classifier.labels(), epsilons=problem.epsilon)[1].detach()


ATTACKS = (PeerAttack("foolbox PGD", _pgd, ADAPTED, losses=("cross_entropy", "dice_ce"), differentiates_weights=True),)
