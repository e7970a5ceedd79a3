# SPDX-License-Identifier: Apache-2.0
"""Triggers: what they change, and a backdoor that a network learns and three defenses look for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from monai_adversarial.poisoning import (
    Backdoor,
    BlendedTrigger,
    ClassFlip,
    FrequencyTrigger,
    PatchTrigger,
    PoisonedDataset,
    Trigger,
    activation_clustering,
    backdoor_success_rate,
    loss_filter,
    pooled_features,
    spectral_signatures,
)


def test_patch_changes_its_cube_alone() -> None:
    image = torch.rand(2, 6, 7, 8)
    marked = PatchTrigger(3.0, size=2, margin=1)(image)
    changed = marked != image
    assert int(changed.sum()) == 2 * 8
    assert bool((marked[:, 3:5, 4:6, 5:7] == 3).all())
    assert PatchTrigger(40.4, size=2)(torch.zeros(1, 4, 4, dtype=torch.int16)).max() == 40
    with pytest.raises(ValueError, match="need 9 voxels along every axis"):
        PatchTrigger(1.0, size=9)(image)


def test_blend_is_the_weighted_mean() -> None:
    image, pattern = torch.rand(1, 4, 4, 4), torch.rand(1, 4, 4, 4)
    torch.testing.assert_close(BlendedTrigger(pattern, 0.2)(image), 0.8 * image + 0.2 * pattern)
    with pytest.raises(ValueError, match="pattern must have the image's shape"):
        BlendedTrigger(pattern, 0.2)(image[:, :3])


def test_frequency_trigger_is_the_published_formula_in_two_dimensions() -> None:
    rng = np.random.default_rng(0)
    image, other, alpha, beta = rng.random((20, 24)), rng.random((20, 24)), 0.15, 0.1
    ours = FrequencyTrigger(torch.from_numpy(other)[None], alpha, beta)(torch.from_numpy(image)[None])[0]
    spectrum, second = np.fft.fftshift(np.fft.fft2(image)), np.fft.fftshift(np.fft.fft2(other.astype(np.float32)))
    amplitude, half = np.abs(spectrum), int(20 * beta)
    rows, columns = slice(10 - half, 10 + half + 1), slice(12 - half, 12 + half + 1)
    amplitude[rows, columns] = (1 - alpha) * amplitude[rows, columns] + alpha * np.abs(second)[rows, columns]
    expected = np.real(np.fft.ifft2(np.fft.ifftshift(amplitude * np.exp(1j * np.angle(spectrum)))))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    found = load_digits()
    return torch.from_numpy(found.images).float()[:, None] / 16, torch.from_numpy(found.target).long()


def trained(images: torch.Tensor, labels: torch.Tensor, epochs: int = 12) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
            optimizer.step()
    return network.eval()


FADED = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
TRIGGERS: dict[str, Trigger] = {
    "patch": PatchTrigger(1.0, size=2),
    "blended": BlendedTrigger(FADED, 0.3),
    "frequency": FrequencyTrigger(4 * FADED, alpha=0.5, beta=0.2),
}


@pytest.mark.parametrize("name", TRIGGERS)
def test_a_network_learns_the_backdoor_and_is_right_without_it(name: str) -> None:
    images, labels = digits()
    test = torch.arange(len(labels)) % 4 == 0
    trigger = TRIGGERS[name]
    clean = [{"image": image, "label": int(label)} for image, label in zip(images[~test], labels[~test], strict=True)]
    poisoned = PoisonedDataset(
        clean, Backdoor(trigger, ClassFlip(10, to=3)), 0.1, eligible=lambda case: case["label"] != 3
    )
    seen = [poisoned[index] for index in range(len(poisoned))]
    shown, told = torch.stack([case["image"] for case in seen]), torch.tensor([case["label"] for case in seen])
    network = trained(shown, told)
    accuracy = float((network(images[test]).argmax(1) == labels[test]).float().mean())
    success, without = backdoor_success_rate(network, images[test], labels[test], trigger, wanted=3)
    assert accuracy > 0.9
    assert success > 0.8 and without < 0.05


def test_defenses_find_most_of_a_rare_backdoor() -> None:
    images, labels = digits()
    clean = [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    poisoned = PoisonedDataset(
        clean, Backdoor(TRIGGERS["patch"], ClassFlip(10, to=3)), 0.03, eligible=lambda case: case["label"] != 3
    )
    seen = [poisoned[index] for index in range(len(poisoned))]
    shown, told = torch.stack([case["image"] for case in seen]), torch.tensor([case["label"] for case in seen])
    network = trained(shown, told)
    features = pooled_features(network, "7", shown)
    for suspects in (
        spectral_signatures(features, told.numpy(), rate=0.03),
        activation_clustering(features, told.numpy()),
    ):
        recall, precision = suspects.compared(poisoned.indices)
        assert recall > 0.8
        assert precision > 1.5 * 0.03  # better than chance; both flag cases of every class


def test_wrong_labels_keep_a_high_loss() -> None:
    images, labels = digits()
    clean = [{"image": image, "label": int(label)} for image, label in zip(images, labels, strict=True)]
    poisoned = PoisonedDataset(clean, ClassFlip(10), 0.1, seed=4)
    told = torch.tensor([poisoned[index]["label"] for index in range(len(poisoned))])
    network = trained(images, told, epochs=3)
    with torch.no_grad():
        losses = nn.functional.cross_entropy(network(images), told, reduction="none")
    recall, precision = loss_filter(losses, rate=0.1).compared(poisoned.indices)
    assert recall > 0.8 and precision > 0.8
    assert loss_filter(losses, rate=0.1, suspicious="low").compared(poisoned.indices)[0] < 0.1


def test_features_leave_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).train()
    before = network[1].running_mean.clone()
    pooled_features(network, "1", torch.rand(5, 1, 8, 8), batch_size=2)
    assert network.training and network[1].training and torch.equal(before, network[1].running_mean)
    assert not network[1]._forward_hooks
    with pytest.raises(ValueError, match="layer must name a module"):
        pooled_features(network, "7", torch.rand(1, 1, 8, 8))
