# SPDX-License-Identifier: Apache-2.0
"""secml-torch: its own PGD, which keeps the point of the highest loss."""

from __future__ import annotations

import torch
from secmlt.adv.backends import Backends
from secmlt.adv.evasion.perturbation_models import LpPerturbationModels
from secmlt.adv.evasion.pgd import PGD
from secmlt.models.pytorch.base_pytorch_nn import BasePyTorchClassifier
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.dense_loss import DenseLossClassifier
from benchmarks.peers.problem import ADAPTED, PeerAttack, Problem

__all__ = ["ATTACKS"]


def _pgd(problem: Problem, passes: int) -> torch.Tensor:
    classifier = DenseLossClassifier(problem)
    attack = PGD(
        perturbation_model=LpPerturbationModels.LINF,
        epsilon=problem.epsilon,
        num_steps=passes,
        step_size=problem.step,
        random_start=False,
        backend=Backends.NATIVE,
    )
    data = TensorDataset(problem.image, classifier.labels())
    attacked = attack(BasePyTorchClassifier(classifier), DataLoader(data, batch_size=len(data)))
    return attacked.dataset.tensors[0].detach()


ATTACKS = (
    PeerAttack("secml-torch PGD", _pgd, ADAPTED, losses=("cross_entropy", "dice_ce"), differentiates_weights=True),
)
