# SPDX-License-Identifier: Apache-2.0
"""A trained network on real chest X-rays: what an attack takes, what chance does not, and what training gives back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.inferers import SimpleInferer
from torch import nn

from benchmarks.classifier_objectives import chest_xrays, trained
from monai_adversarial.attacks import FGSM, PGD, SquareAttack
from monai_adversarial.handlers import AdversarialTraining

EPSILON = 4 / 255


@pytest.mark.real_data
@pytest.mark.slow
def test_chest_xrays_are_misread_under_attack_and_not_by_chance(shared_data: Path) -> None:
    data = chest_xrays(shared_data)
    network, accuracy = trained(data, epochs=3)
    images, labels = data[2][:128], data[3][:128]
    assert accuracy > 0.75
    result = PGD(EPSILON)(network, images, labels)
    control, _ = result.random_control()
    with torch.no_grad():
        by_chance = (network(control).argmax(1) == labels).float().mean()
    clean, left = float(result.clean_score.mean()), float(result.adversarial_score.mean())
    assert abs(float(by_chance) - clean) < 0.1 and left < clean - 0.4
    assert float(result.budgets["noise_linf"].values.max()) <= EPSILON * (1 + 1e-5)
    weaker = [FGSM(EPSILON)(network, images, labels), SquareAttack(EPSILON, queries=50)(network, images, labels)]
    assert all(float(other.adversarial_score.mean()) >= left for other in weaker)

    rows = [{"image": image, "label": label} for image, label in zip(data[0][:1500], data[1][:1500], strict=True)]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=2,
        train_data_loader=DataLoader(Dataset(rows), batch_size=50, shuffle=True),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), 2e-3),
        loss_function=nn.CrossEntropyLoss(),
        inferer=SimpleInferer(),
        decollate=False,
    )
    AdversarialTraining(PGD(EPSILON, steps=3)).attach(trainer)
    trainer.run()
    network.eval()
    hardened = PGD(EPSILON)(network, images, labels)
    assert float(hardened.adversarial_score.mean()) > left + 0.2
