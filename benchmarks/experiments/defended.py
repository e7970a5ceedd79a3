# SPDX-License-Identifier: Apache-2.0
"""Classifiers with a defense, trained alike: noise, adversarial training, and a fixed factor that only masks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from torch import nn

from benchmarks.classifier_objectives import Times
from benchmarks.experiments.subjects import small_network, trained_on
from benchmarks.survey_defense_claims import UNIT, Images
from monai_adversarial.attacks import FGSM, PGD, Attack
from monai_adversarial.handlers import AdversarialTraining

__all__ = ["DEFENSES", "hardened"]

BUDGET = 4 / 255


def hardened(data: Images, seed: int, attack: Attack, weight: float = 0.5, epochs: int = 6) -> nn.Module:
    """A small DenseNet after adversarial training.

    Args:
        data: images from 0 to 1 and classes, of which "train" is used.
        seed: of weights and order.
        attack: of each iteration.
        weight: of the adversarial images in the loss.
        epochs: over the images.
    """
    images, labels = data["train"]
    network = small_network(images, int(labels.max()) + 1, seed)
    torch.manual_seed(seed)
    # Attacked images of unequal classes are answered best, and worst, by the larger class alone.
    shares = torch.bincount(labels).float() / len(labels)
    items = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(items), batch_size=64, shuffle=True),
        network=network,
        optimizer=torch.optim.AdamW(network.parameters(), 3e-3),
        loss_function=nn.CrossEntropyLoss(weight=1 / (len(shares) * shares)),
        train_handlers=[
            AdversarialTraining(attack, {"task": "classification", **UNIT}, adversarial_weight=weight, seed=seed)
        ],
    ).run()
    return network.eval()


def _with_noise(data: Images, seed: int) -> nn.Module:
    images, labels = data["train"]
    generator = torch.Generator().manual_seed(seed)
    noisy = images + BUDGET * torch.randn(images.shape, generator=generator)
    return trained_on(torch.cat([images, noisy.clamp(0, 1)]), labels.repeat(2), seed)


#: the factor on the logits is no defense: it only makes a gradient of the cross-entropy vanish
DEFENSES: dict[str, Callable[[Images, int], nn.Module]] = {
    "none": lambda data, seed: trained_on(*data["train"], seed),
    "noise": _with_noise,
    "FGSM training": lambda data, seed: hardened(data, seed, FGSM(BUDGET, objective="cross_entropy")),
    "PGD training": lambda data, seed: hardened(data, seed, PGD(BUDGET, steps=3, objective="cross_entropy")),
    "logits x 50": lambda data, seed: nn.Sequential(trained_on(*data["train"], seed), Times(50.0)).eval(),
}
