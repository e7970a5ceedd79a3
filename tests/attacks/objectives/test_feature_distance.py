# SPDX-License-Identifier: Apache-2.0
"""Features of named layers: values in closed form, both directions, and networks that do not fit."""

from __future__ import annotations

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from monai_adversarial.attacks import PGD, FeatureDistance
from monai_adversarial.models import AttackedModel
from tests.helpers import random_image, random_label, tiny_segmentation_network

SHAPE = (2, 1, 8, 8, 8)


def model(network: nn.Module | None = None, inferer: object = None) -> AttackedModel:
    return AttackedModel(network or tiny_segmentation_network(), inferer, output_values="logits", precision="float32")


def features(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return network[1](network[0](image))  # type: ignore[index]


def test_the_value_is_the_share_of_the_clean_length() -> None:
    network, image = tiny_segmentation_network(), random_image(SHAPE)
    result = PGD(0.2, steps=5, objective=FeatureDistance(["1"]))(model(network), image, random_label(SHAPE))
    with torch.no_grad():
        clean, moved = features(network, image), features(network, result.adversarial)
    expected = (moved - clean).flatten(1).square().sum(dim=1) / clean.flatten(1).square().sum(dim=1)
    torch.testing.assert_close(result.objective, expected, rtol=1e-4, atol=1e-6)
    assert not network[1]._forward_hooks and not network._forward_pre_hooks  # type: ignore[index]
    control, _ = result.random_control()
    with torch.no_grad():
        by_chance = (features(network, control) - clean).flatten(1).square().sum(dim=1)
    assert (by_chance / clean.flatten(1).square().sum(dim=1) < expected).all()


def test_a_larger_budget_moves_them_further() -> None:
    image, label = random_image(SHAPE), random_label(SHAPE)
    reached = [
        PGD(epsilon, steps=5, objective=FeatureDistance(["1"]))(model(), image, label).objective
        for epsilon in (0.05, 0.1, 0.2)
    ]
    assert (reached[0] < reached[1]).all() and (reached[1] < reached[2]).all()


def test_features_move_to_those_of_another_image() -> None:
    network, image, other = tiny_segmentation_network(), random_image(SHAPE), random_image((1, *SHAPE[1:]), seed=7)
    objective = FeatureDistance(["0", "1"], toward=other)
    result = PGD(0.5, steps=20, objective=objective)(model(network), image, random_label(SHAPE))
    assert (result.objective > 0.5).all()
    with torch.no_grad():
        goal = network[0](other)  # type: ignore[index]
        before, after = (
            (network[0](x) - goal).flatten(1).norm(dim=1)  # type: ignore[index]
            for x in (image, result.adversarial)
        )
    assert (after < 0.7 * before).all()


def test_samples_do_not_depend_on_each_other_and_early_stop_selects_them() -> None:
    image, label = random_image(SHAPE), random_label(SHAPE)
    attack = PGD(0.2, steps=4, objective=FeatureDistance(["1"]))
    together = attack(model(), image, label)
    alone = attack(model(), image[1:], label[1:])
    torch.testing.assert_close(alone.adversarial, together.adversarial[1:])
    stopping = PGD(0.2, steps=4, objective=FeatureDistance(["1"]), early_stop=True)
    assert stopping(model(), image, label).objective.isfinite().all()


def test_what_does_not_fit_is_one_sentence() -> None:
    image, label = random_image(SHAPE), random_label(SHAPE)
    with pytest.raises(ValueError, match="names of the network's layers such as '0', '1', '2', got 'no'"):
        PGD(0.1, objective=FeatureDistance(["no"]))(model(), image, label)
    with pytest.raises(ValueError, match="layers must be a sequence of names"):
        FeatureDistance("0")
    windows = SlidingWindowInferer((4, 4, 4), 8)
    with pytest.raises(ValueError, match="sees the whole image .* in one pass"):
        PGD(0.1, objective=FeatureDistance(["0"]))(model(inferer=windows), image, label)
    with pytest.raises(ValueError, match="of toward equal those of the image"):
        PGD(0.1, objective=FeatureDistance(["0"], toward=image))(model(), image, label)
    with pytest.raises(ValueError, match="toward must have shape"):
        PGD(0.1, objective=FeatureDistance(["0"], toward=image[..., 1:]))(model(), image, label)
    with pytest.raises(ValueError, match="targeted must be False with FeatureDistance"):
        PGD(0.1, objective=FeatureDistance(["0"]), targeted=True)(model(), image, label)
