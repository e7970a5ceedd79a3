# SPDX-License-Identifier: Apache-2.0
"""FSRAA: most of the noise's energy lies where it belongs, and features stay in their ball."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import PGD, FeatureDistance
from monai_adversarial.data.example import example_case
from monai_adversarial.generators import FSRAA, FeaturesWithin, dilated_organs, grad_cam_focus

FOCUS = dilated_organs([3], voxels=1)


def energy_and_loss(outside: float) -> tuple[float, float]:
    """Share of the noise's energy in the focus of a new image, and the Dice that it loses there."""
    model, image, label = example_case(16, seed=9)
    attack = FSRAA(15, "HU", focus=FOCUS, channels=(4, 8), rate=1e-2, outside=outside, classes=[3])
    attack.fit(model, [example_case(16, seed=seed)[1:] for seed in range(3)], epochs=12)
    result = attack(model.replace(scored_classes=[3]), image, label)
    energy = result.parameters[0].square()
    inside = FOCUS(energy, torch.as_tensor(label))
    return float((energy * inside).sum() / energy.sum()), float(result.clean_dice - result.adversarial_dice)


def test_the_noise_stays_on_the_lesion_and_breaks_it() -> None:
    held, lost = energy_and_loss(20.0)
    free, _ = energy_and_loss(0.0)
    assert held > 0.8 > free
    assert lost > 0.3


def test_features_within_keeps_them_there() -> None:
    model, image, label = example_case(16)
    radius = 1e-3

    def distance(objective: object) -> float:
        result = PGD(12, "HU", steps=5, objective=objective)(model, image, label)  # type: ignore[arg-type]
        seen = [
            model.network.smoothing(model.intensity(torch.as_tensor(one))).detach()
            for one in (image, result.adversarial)
        ]
        return float((seen[1] - seen[0]).square().sum() / seen[0].square().sum())

    free = distance("dice")
    held = distance(FeaturesWithin("dice", ["smoothing"], radius, weight=1000.0))
    assert held < 1.2 * radius < free
    assert distance(FeaturesWithin("dice", ["smoothing"], radius, weight=0.0)) == pytest.approx(free, rel=1e-5)
    with pytest.raises(ValueError, match="layers must be names"):
        PGD(12, "HU", steps=1, objective=FeaturesWithin("dice", ["nowhere"], radius))(model, image, label)
    assert FeatureDistance(["smoothing"]).layers == ("smoothing",)


def test_grad_cam_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    body, head = nn.Conv3d(1, 3, 3, padding=1), nn.Conv3d(3, 2, 1)
    network = nn.Sequential(body, nn.ReLU(), head)
    image = torch.rand(2, 1, 8, 8, 8)
    features = torch.relu(body(image))
    # The gradient of the summed logit by a feature is the head's weight wherever it is.
    weights = head.weight[1].view(1, 3, 1, 1, 1)
    expected = torch.relu((weights * features).sum(dim=1, keepdim=True))
    for row, found in enumerate(grad_cam_focus(network, "1", class_index=1)(image, None)):
        one = expected[row]
        assert torch.allclose(found, (one - one.min()) / (one.max() - one.min()), atol=1e-4)
    with pytest.raises(ValueError, match="layer must be a name"):
        grad_cam_focus(network, "5")


def test_dilated_organs_by_hand() -> None:
    label = torch.zeros(1, 1, 7, 7, 7)
    label[0, 0, 3, 3, 3], label[0, 0, 0, 0, 0] = 2, 1
    assert int(dilated_organs([2], voxels=1)(label, label).sum()) == 27
    assert int(dilated_organs(voxels=0)(label, label).sum()) == 2
    with pytest.raises(ValueError, match="needs a label"):
        dilated_organs()(label, None)
    with pytest.raises(TypeError, match="focus must be a function"):
        FSRAA(1.0, focus=3)  # type: ignore[arg-type]
