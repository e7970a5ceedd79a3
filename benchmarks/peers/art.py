# SPDX-License-Identifier: Apache-2.0
"""Adversarial Robustness Toolbox: PGD of its PyTorch classifier."""

from __future__ import annotations

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescentPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import nn

from benchmarks.peers.dense_loss import DenseLossClassifier
from benchmarks.peers.problem import ADAPTED, PeerAttack, Problem

__all__ = ["ATTACKS"]


def _pgd(problem: Problem, passes: int) -> torch.Tensor:
    classifier = DenseLossClassifier(problem)
    image = problem.image
    estimator = PyTorchClassifier(
        classifier,
        nn.CrossEntropyLoss(),
        input_shape=tuple(image.shape[1:]),
        nb_classes=2,
        clip_values=(0.0, 1.0),
        device_type="gpu" if image.is_cuda else "cpu",
    )
    attack = ProjectedGradientDescentPyTorch(
        estimator,
        eps=problem.epsilon,
        eps_step=problem.step,
        max_iter=passes,
        num_random_init=0,
        batch_size=len(image),
        verbose=False,
    )
    target = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (len(image), 1))
    return torch.from_numpy(attack.generate(image.cpu().numpy(), target)).to(image.device)


ATTACKS = (PeerAttack("ART PGD", _pgd, ADAPTED, losses=("cross_entropy", "dice_ce"), differentiates_weights=True),)
