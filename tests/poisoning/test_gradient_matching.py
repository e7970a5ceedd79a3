# SPDX-License-Identifier: Apache-2.0
"""Clean-label poison: within its budget, aligned, and a victim that a network trained on it gets wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_adversarial.poisoning import gradient_matching
from tests.poisoning.test_triggers import digits, trained

LOSS = nn.functional.cross_entropy


def test_the_victim_fails_where_random_changes_of_the_same_size_do_nothing() -> None:
    images, labels = digits()
    images, labels = images[labels < 2], labels[labels < 2]
    test = torch.arange(len(labels)) % 4 == 0
    shown, told = images[~test], labels[~test]
    torch.manual_seed(0)

    def fitted(given: torch.Tensor) -> nn.Module:
        torch.manual_seed(1)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 2))
        optimizer = torch.optim.Adam(network.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            LOSS(network(given), told).backward()
            optimizer.step()
        return network.eval()

    network = fitted(shown)
    margins = (network(images[test])[:, 0] - network(images[test])[:, 1]).detach()
    zeros = (labels[test] == 0) & (margins > 0)
    place = int(torch.where(zeros, margins, torch.inf).argmin())  # the victim nearest to the boundary
    victim = images[test][place : place + 1]
    chosen = (told == 1).nonzero().flatten()  # of the class that is wanted; labels stay true
    epsilon = 0.25
    found = gradient_matching(network, LOSS, victim, torch.tensor([1]), shown[chosen], told[chosen], epsilon, steps=60)
    assert max(found.alignment) > found.alignment[0] + 0.2
    assert (found.images - shown[chosen]).abs().max() <= epsilon + 1e-6
    assert found.images.min() >= 0 and found.images.max() <= 1

    def margin_after(changed: torch.Tensor) -> float:
        poisoned = shown.clone()
        poisoned[chosen] = changed
        logits = fitted(poisoned)(victim)[0].detach()
        return float(logits[0] - logits[1])

    noise = torch.empty_like(found.images).uniform_(-epsilon, epsilon)
    random = margin_after((shown[chosen] + noise).clamp(0, 1))
    assert margin_after(found.images) < random - 0.3


def test_the_network_stays_as_it_is_and_a_seed_gives_the_same_poison() -> None:
    images, labels = digits()
    network = trained(images[:64], labels[:64], epochs=1).train()
    weights = [weight.detach().clone() for weight in network.parameters()]
    first, second = (
        gradient_matching(network, LOSS, images[:1], torch.tensor([5]), images[1:9], labels[1:9], 0.1, steps=4, seed=3)
        for _ in range(2)
    )
    assert torch.equal(first.images, second.images)
    assert network.training and all(weight.requires_grad for weight in network.parameters())
    assert all(torch.equal(old, new) for old, new in zip(weights, network.parameters(), strict=True))
    with pytest.raises(ValueError, match="victim must be one case"):
        gradient_matching(network, LOSS, images[:2], torch.tensor([5]), images[1:9], labels[1:9], 0.1)
