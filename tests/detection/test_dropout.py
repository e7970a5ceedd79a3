# SPDX-License-Identifier: Apache-2.0
"""Variance over passes with active dropout, always the same masks."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer

from monai_adversarial.attacks import PGD
from monai_adversarial.detection import Detector, DropoutUncertainty, Evading
from monai_adversarial.models import AttackedModel
from tests.detection.conftest import slope_along


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Softplus(), torch.nn.Dropout(0.5), torch.nn.Conv2d(8, 3, 1)]
    return torch.nn.Sequential(*layers).eval()


def test_variance_by_hand_and_the_network_is_left_as_it_was() -> None:
    net = network()
    image = torch.rand(2, 1, 8, 8)
    detector = DropoutUncertainty(net, passes=5, seed=3)
    before = torch.random.get_rng_state()
    found = detector.score(image)
    assert torch.equal(torch.random.get_rng_state(), before) and not net[2].training
    rows = []
    for row in image.split(1):
        passes = []
        for number in range(5):
            torch.manual_seed(1_000_003 * 3 + number)
            net[2].train()
            passes.append(net(row).softmax(dim=1).detach())
            net[2].eval()
        rows.append(torch.stack(passes).var(dim=0, correction=0).mean())
    assert torch.allclose(found.float(), torch.stack(rows), rtol=1e-4)
    assert torch.allclose(detector.score(image[1:]), found[1:])  # the batch does not matter


def test_gradient_through_windows_is_exact() -> None:
    model = AttackedModel(network().double(), SlidingWindowInferer((8, 8), 2, 0.25))
    detector = DropoutUncertainty(model, passes=3)
    image = torch.rand(2, 1, 8, 14, dtype=torch.float64)
    exact, difference = slope_along(lambda x: detector._suspicion(x, image, smooth=True), image, 1e-6)
    assert exact == pytest.approx(difference, rel=1e-4)


def test_the_attacker_lowers_the_score(tmp_path) -> None:
    draw = torch.Generator().manual_seed(0)
    clean = torch.rand(9, 1, 8, 8, generator=draw)
    model = AttackedModel(network())
    detector = DropoutUncertainty(model, passes=4)
    detector.calibrate(clean, 0.1)
    image = 3 * torch.rand(1, 1, 8, 8, generator=draw)
    label = model.network(image).argmax(dim=1, keepdim=True).float()
    attack = {"epsilon": 0.3, "units": "network", "steps": 5}
    unaware = PGD(**attack)(model, image, label)
    aware = PGD(**attack, objective=Evading("dice_ce", detector, weight=10.0))(model, image, label)
    assert float(detector.score(aware.adversarial)) < float(detector.score(unaware.adversarial))
    detector.save(tmp_path / "dropout.npz")
    assert Detector.load(tmp_path / "dropout.npz", model).threshold == detector.threshold


def test_a_network_without_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="must have dropout layers"):
        DropoutUncertainty(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Dropout(0.0)))
