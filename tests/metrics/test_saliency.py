# SPDX-License-Identifier: Apache-2.0
"""Concentration of saliency equals numbers computed by hand; gradients are those of the network."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from monai_adversarial.attacks import input_saliency
from monai_adversarial.data.example import example_case
from monai_adversarial.detection.saliency import _numbers
from monai_adversarial.metrics import SaliencyConcentration, saliency_concentration
from tests.helpers import random_image, random_label, tiny_segmentation_network
from tests.metrics.attacked import moved


def test_numbers_by_hand() -> None:
    maps = torch.tensor([[[4.0, 3.0, 2.0, 1.0]], [[0.0, 0.0, 7.0, 0.0]], [[1.0, 1.0, 1.0, 1.0]], [[0.0] * 4]])
    organ = torch.tensor([[[1, 0, 0, 0]], [[0, 0, 1, 1]], [[0, 0, 0, 0]], [[1, 1, 1, 1]]])
    found = saliency_concentration(maps, organ)
    assert found["mean"].tolist() == [2.5, 1.75, 1.0, 0.0]
    # mean absolute difference over twice the mean: 20 / 16 / 5, 3/4, 0
    assert found["gini"].tolist()[:3] == pytest.approx([20 / 16 / 5, 3 / 4, 0.0])
    shares = [0.4, 0.3, 0.2, 0.1]
    entropy = -sum(share * math.log(share) for share in shares) / math.log(4)
    assert found["entropy"].tolist()[:3] == pytest.approx([entropy, 0.0, 1.0])
    assert found["top_1_percent"].tolist()[:3] == found["top_5_percent"].tolist()[:3] == pytest.approx([0.4, 1.0, 0.25])
    assert found["in_organ"].tolist()[:2] == pytest.approx([0.4, 1.0]) and bool(found["in_organ"][2].isnan())
    assert found["in_organ_ratio"].tolist()[:2] == pytest.approx([1.6, 2.0])
    assert all(bool(values[3].isnan()) for name, values in found.items() if name != "mean")


def test_the_largest_channel_counts_and_the_top_is_a_share_of_the_voxels() -> None:
    maps = torch.zeros(1, 2, 200)
    maps[0, 0, :10], maps[0, 1, 0] = 1.0, -3.0
    found = saliency_concentration(maps, torch.ones(1, 1, 200))
    assert found["top_1_percent"].item() == pytest.approx(4 / 12)  # 2 of 200 voxels
    assert found["top_5_percent"].item() == pytest.approx(1.0)
    assert found["in_organ"].item() == pytest.approx(1.0) and found["in_organ_ratio"].item() == pytest.approx(1.0)


def test_detector_and_metric_count_the_same() -> None:
    channel = torch.rand(1, 1, 7, 9, generator=torch.Generator().manual_seed(0))
    metric = saliency_concentration(channel, torch.ones_like(channel))
    gini, entropy, first, fifth, size = _numbers(channel.flatten(1))[0]
    assert first.item() == pytest.approx(channel.flatten().topk(1).values.sum().item() / channel.sum().item())
    assert fifth.item() == pytest.approx(channel.flatten().topk(4).values.sum().item() / channel.sum().item())
    for mine, name in ((gini, "gini"), (entropy, "entropy"), (first, "top_1_percent"), (fifth, "top_5_percent")):
        assert mine.item() == pytest.approx(metric[name].item())
    assert size.exp().item() == pytest.approx(metric["mean"].item())


def test_gradients_are_those_of_the_loss_and_the_network_is_as_it_was() -> None:
    network = tiny_segmentation_network()
    image, label = random_image((2, 1, 6, 6, 6)), random_label((2, 1, 6, 6, 6))
    found = input_saliency(network, image, label)
    seen = image.clone().requires_grad_()
    loss = nn.functional.cross_entropy(network(seen), label[:, 0], reduction="none").flatten(1).mean(dim=1).sum()
    (expected,) = torch.autograd.grad(loss, seen)
    torch.testing.assert_close(found, expected.abs())
    assert all(weight.requires_grad and weight.grad is None for weight in network.parameters())
    with pytest.raises(ValueError, match="label must have shape"):
        input_saliency(network, image, label[:, :, 1:])


def test_of_a_result_the_organ_is_where_the_attack_moved_it() -> None:
    model, image, label = example_case(16)
    result = moved()
    metric = SaliencyConcentration(input_saliency)
    row = metric.add(result)[0]
    after = saliency_concentration(input_saliency(model, result.adversarial, result.label), result.label)
    before = saliency_concentration(input_saliency(model, image, label), label)
    expected = torch.stack([*after.values(), *before.values()], dim=1)[0]
    torch.testing.assert_close(row, expected)
    with pytest.raises(ValueError, match="saliency must be a function"):
        SaliencyConcentration().add(result)


@pytest.mark.parametrize(
    ("saliency", "organ", "message"),
    [
        (torch.zeros(1, 1, 4), torch.zeros(1, 1, 5), "on its grid"),
        (torch.full((1, 1, 4), math.nan), torch.zeros(1, 1, 4), "saliency must be finite"),
    ],
)
def test_input_that_does_not_fit_is_one_sentence(saliency: Any, organ: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        saliency_concentration(saliency, organ)
